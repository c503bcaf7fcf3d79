"""What lasts: journals, report files and their formats, written so that a kill or a full disk tears nothing."""
