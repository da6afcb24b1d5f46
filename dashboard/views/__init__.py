"""Views: the pieces of pages, from tables and words to a whole section."""
