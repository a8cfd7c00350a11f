"""Masks from a grammar of pieces, read with a stack and worked out where a text comes by."""

from perstep.automata.stack.automaton import StackAutomaton
from perstep.automata.stack.program import Program

__all__ = ["Program", "StackAutomaton"]
