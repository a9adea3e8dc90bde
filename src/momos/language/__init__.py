"""Language models along their training, and the text that they are trained and measured on."""
