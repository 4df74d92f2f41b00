r"""DyCL: Dynamic Neural Network Compilation Via Program Rewriting and Graph Optimization.

Chen, Wei, Liu, Yang, ISSTA 2023. https://arxiv.org/abs/2307.04963
Official code: https://github.com/SeekingDream/ISSTA23_DyCL

Compilers of deep networks follow one example input through the program, so a condition on the input is frozen as
the example met it. DyCL rewrites the program instead and compiles its condition-free parts one by one:

1. **Rewrite** (:mod:`~replicata.methods.efficient.dycl.rewrite`): loops over constants are unrolled, constants
   propagated, and branches on constants decided; a break or continue becomes a jump. Every condition that is left
   depends on the input.
2. **Cut** (:mod:`~replicata.methods.efficient.dycl.program`): the control-flow graph has two kinds of nodes, a
   condition or straight-line code. Each of the latter is a sub-network.
3. **Interfaces**: live variables give inputs and outputs of the sub-networks; dead statements are removed.
4. **Graph optimisation** (:mod:`~replicata.methods.efficient.dycl.compile`): an output that is an input (S1) or
   depends on no input (S2) leaves the sub-network, and the host assigns it.
5. **Compile** in topological order, with example inputs from the sub-networks before, down both branches of every
   condition (:mod:`~replicata.methods.efficient.dycl.backends`).
6. **Host** (:mod:`~replicata.methods.efficient.dycl.host`): generated Python that keeps the conditions and calls the
   compiled parts. Then :math:`P_\mathrm{host}(x) = P(x)` for all :math:`x`.

For the compiled program :math:`C` and the original :math:`V` (the vendor's) on inputs :math:`x_i`,

.. math::
    \eta &= \frac{1}{N} \sum_i 1[\text{label, token sequence or path of } C(x_i), V(x_i) \text{ differ}] \quad (1)\\
    \delta &= \log_{10} \big( \max_i \|C(x_i) - V(x_i)\|_2 + 10^{-10} \big)                              \quad (2)

Departures: TorchScript compiles the sub-networks instead of TVM (OnnxRuntime and Inductor are choices), on one CPU
thread instead of a Jetson board. It freezes them, and ``optimize_for_inference`` is a choice of its own
(``torchscript_blocked``): its change of layout at the borders of small sub-networks costs more than it gains. The
paper's :math:`\eta` compares labels; the path counts here too, because an early exit often gives the same label.
Plain numbers always go to the host, with or without step 4: executables return tensors.
The comparison of a condition stays on the host; what its sides are computed from goes into the sub-network before.
Updates such as ``x += y`` become ``x = x + y``.

Subset of Python: assignments to variables, if, for over constants with break, continue and else, return, expressions
without comprehensions; no changes in place. Whatever is outside is refused with its line, and so is a sub-network
that looks at the values of its tensors, because its trace would be wrong.

Subjects (:mod:`replicata.models`): early exits, SkipNet with gates by block or recurrent, BlockDrop, greedy decoding,
and a residual network without conditions as the control. Inputs come one at a time; shapes are those of compilation.
"""

from replicata.methods.efficient.dycl.method import Decisions, Latency
from replicata.methods.efficient.dycl.subjects import ExitTraining, GateTraining, Seq2SeqTraining

__all__ = ["Decisions", "ExitTraining", "GateTraining", "Latency", "Seq2SeqTraining"]
