"""People's judgement: a local page that asks it of captions, blind, and what it comes to."""
