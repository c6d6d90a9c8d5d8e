"""The genetic algorithms sample of the thesis, with the library DEAP.

DEAP's own algorithms need no sample: `toolbox.register("map", app.map)` evaluates individuals on a cluster, also those
of classes that `creator.create` makes in a notebook. Here is an island model as a world: populations that evolve apart
for some generations, before their best individuals migrate.
"""
