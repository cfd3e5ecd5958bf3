"""What a person looks at: tables and lines in the terminal."""
