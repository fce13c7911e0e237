"""A graph as C99 sources: operators, network, front end, and the library of all of them."""
