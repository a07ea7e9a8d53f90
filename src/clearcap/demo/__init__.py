"""The web page: captions coming out of the noise, word by word, to be watched and rewritten."""
