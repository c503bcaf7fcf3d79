"""Networks whose numbers a program prints although they are wrong, and right ones that look like them."""
