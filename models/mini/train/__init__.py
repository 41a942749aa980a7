"""How the mini zoo was made: seeded data, tokenizer, optimizer, training and evaluation."""
