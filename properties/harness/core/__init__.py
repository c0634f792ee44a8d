"""What a law is made of: its mark, its checks, bits, layouts and evidence."""
