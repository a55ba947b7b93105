"""Review by a person of what a language model wrote: a local page, or a terminal."""
