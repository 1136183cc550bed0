"""
@article{cocofold2026,
  title = {Fine-tuning AlphaFold with limited cryo-EM observations},
  author = {CoCoFold authors},
  journal = {Commun. Chem.},
  year = {2026}
}
"""
