"""Classes of other libraries, a module for each library. Each is imported when a class of its library stands in a
contract, and not before; so none of the libraries is needed.

A module has one function: ``find(hint, names)`` gives the `Conversion` or the `Record` of a class of its library, or of
a generic alias of one, and raises TypeError where such a class cannot travel. It uses nothing that a finder of a user's
own could not use too (`typedrpc.codec.register_finder`).
"""
