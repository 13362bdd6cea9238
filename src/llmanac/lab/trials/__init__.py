"""How an arm is tried: by training it, by decoding with one finished model, or by tokenizing the same documents."""
