"""The papers' figures of what their heads do inside, as arrays and as pictures: `rayseg analyse`.

catalogue.py names every figure. A file per paper (dgcw, dfdam, gald, denoised_nl, dfn) and mistakes.py, for any head,
compute arrays; drawings.py draws them; analyse.py checks what was asked, and writes both.
"""
