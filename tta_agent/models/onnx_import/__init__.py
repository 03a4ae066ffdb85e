"""A served ONNX file as a torch module that can be adapted.

`load` reads the graph, makes torch modules of its layers and small functions of the rest, under the file's names,
and proves that the module answers as the file does. What it gives back can be trained, copied, moved, exported
anew and, by `Graph.patched`, written back into the file's own graph.

    reading, regular                    the file, its graph made regular
    operators, sums, shapes, spatial    the operators as functions
    values, tracing                     values that are known before any sample comes
    layers, parts                       nodes that are layers, whole or in parts
    builder, naming, module             the module
    proof                               that it is the file, and the way back
    sites, unfold                       layers into which a normalisation was folded, and their unfolding
    remaining                           adapters that can use it
"""

from tta_agent.models.onnx_import.proof import Graph, OnnxModel, load
from tta_agent.models.onnx_import.remaining import can_adapt, refusal, restore
from tta_agent.models.onnx_import.unfold import UnfoldedGraph

__all__ = ["Graph", "OnnxModel", "UnfoldedGraph", "can_adapt", "load", "refusal", "restore"]
