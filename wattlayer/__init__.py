"""wattlayer: what a neural network's inference costs in joules, layer by layer, without running it.

    import wattlayer as wl

    estimate = wl.predict("torchvision:resnet50", hardware="a30", batch=32)
    trace = wl.trace(module, *inputs)
    wl.estimate(trace, wl.load_model("a30")).energy_j

Importing this imports neither torch nor xgboost; they come in where they are used.
"""

from . import nas
from .dataset import Measurement, read_measurements, write_measurements
from .errors import InputError, MeterError, UncoveredKindError, WattlayerError
from .estimate import VERSION, Estimate, estimate, estimate_many
from .evaluate import evaluate
from .generation import Generation, predict_generation
from .hardware import HARDWARE, Hardware
from .layer import Layer, Operand
from .measure import measure
from .model import EnergyModel, Prediction, load_model
from .predict import predict
from .profiling import Profile, ProfilerHook, profile
from .report.accounting import Assumptions
from .trace import Trace, trace
from .train.calibration import calibrate
from .whatif import Change, whatif
from .whatif.advise import advise
from .whatif.compare import Comparison, compare
from .whatif.subject import Edit, Setting, Subject

__version__ = VERSION

__all__ = [
    "HARDWARE",
    "Assumptions",
    "Change",
    "Comparison",
    "Edit",
    "EnergyModel",
    "Estimate",
    "Generation",
    "Hardware",
    "InputError",
    "Layer",
    "Measurement",
    "MeterError",
    "Operand",
    "Prediction",
    "Profile",
    "ProfilerHook",
    "Setting",
    "Subject",
    "Trace",
    "UncoveredKindError",
    "WattlayerError",
    "advise",
    "calibrate",
    "compare",
    "estimate",
    "estimate_many",
    "evaluate",
    "load_model",
    "measure",
    "nas",
    "predict",
    "predict_generation",
    "profile",
    "read_measurements",
    "trace",
    "whatif",
    "write_measurements",
]
