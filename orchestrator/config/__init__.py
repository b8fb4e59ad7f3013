"""What an operator writes down, and the sentences about what is wrong with it."""
