"""Studies of why a source helps and how to choose one (Grigoryev, Voynov, Babenko, ICLR 2022)."""
