"""The traces of the true and the empirical Fisher, by parameter and by example, with their errors."""
