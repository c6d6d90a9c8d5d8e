"""The data analysis sample of the thesis: PCA, LDA and MDS of data that are larger than a worker's memory.

pca           principal components: exact (TSQR or moments), incremental, randomised
lda           linear discriminants
mds           multidimensional scaling: SMACOF from several starts
landmark-mds  the same of many points, from their distances to a few landmarks

Data are row blocks (`row_blocks`): slices of a .npy file, or what a function makes; a task has one block in memory at
a time. `moments`, `pca`, `lda` and `mds` are mathematics, `analysis_plans` cuts it into tasks of one or more phases,
and `phased_plan` runs a plan, here or on a cluster. A plan has a fixed number of tasks, and its results are combined
in a fixed order, so they are the same on any number of workers.
"""
