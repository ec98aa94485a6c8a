"""mlens: which part of a user's history should a language model see to predict the next rating?"""

__version__ = "0.2.0"
