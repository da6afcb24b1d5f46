"""How `ds-cnn` is made: a small network learns what `mn04` gives for sounds that are made up.

    bank (speech, instruments, CC0 samples) → sounds (five seconds each) → clips (levels and the teacher's
    features, in shards in the store) → training → weights

No recording of a dataset is used, so what is measured on ESC-10 and UrbanSound8K cannot have leaked.
"""
