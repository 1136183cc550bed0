r"""
@article{cocofold2026,
  title = {Fine-tuning AlphaFold with limited cryo-EM observations},
  author = {Authors listed at the DOI},
  journal = {Communications Chemistry},
  year = {2026},
  doi = {10.1038/s42004-026-01899-7}
}

@article{jumper2021,
  title = {Highly accurate protein structure prediction with AlphaFold},
  author = {Jumper, John and others},
  journal = {Nature},
  volume = {596},
  pages = {583--589},
  year = {2021},
  doi = {10.1038/s41586-021-03819-2}
}

@article{evans2021,
  title = {Protein complex prediction with AlphaFold-Multimer},
  author = {Evans, Richard and others},
  journal = {bioRxiv},
  year = {2021},
  doi = {10.1101/2021.10.04.463034}
}

@article{mirdita2022,
  title = {ColabFold: making protein folding accessible to all},
  author = {Mirdita, Milot and others},
  journal = {Nature Methods},
  volume = {19},
  pages = {679--682},
  year = {2022},
  doi = {10.1038/s41592-022-01488-1}
}

@article{ahdritz2024,
  title = {OpenFold: retraining AlphaFold2 yields new insights into its learning mechanisms and capacity for
    generalization},
  author = {Ahdritz, Gustaf and others},
  journal = {Nature Methods},
  volume = {21},
  pages = {1514--1524},
  year = {2024},
  doi = {10.1038/s41592-024-02272-z}
}

@article{eastman2017,
  title = {OpenMM 7: Rapid development of high performance algorithms for molecular dynamics},
  author = {Eastman, Peter and others},
  journal = {PLOS Computational Biology},
  volume = {13},
  pages = {e1005659},
  year = {2017},
  doi = {10.1371/journal.pcbi.1005659}
}

@article{delarosatrevin2016,
  title = {Scipion: A software framework toward integration, reproducibility and validation in 3D electron microscopy},
  author = {de la Rosa-Trev{\'i}n, J. M. and others},
  journal = {Journal of Structural Biology},
  volume = {195},
  pages = {93--99},
  year = {2016},
  doi = {10.1016/j.jsb.2016.04.010}
}

@article{croll2018,
  title = {ISOLDE: a physically realistic environment for model building into low-resolution electron-density maps},
  author = {Croll, Tristan Ian},
  journal = {Acta Crystallographica Section D},
  volume = {74},
  pages = {519--530},
  year = {2018},
  doi = {10.1107/S2059798318002425}
}
"""
