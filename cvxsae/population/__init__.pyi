from .evaluation import Evaluation as Evaluation
from .evaluation import evaluate as evaluate
from .floor import PopulationFloor as PopulationFloor
from .floor import population_floor as population_floor
from .gap import PopulationGap as PopulationGap
from .gap import population_gap as population_gap
