from sim.api import ConfigError as ConfigError
from sim.api import check as check
from sim.api import compare as compare
from sim.api import explain as explain
from sim.api import plan as plan
from sim.api import scale as scale
from sim.api import simulate as simulate
from sim.api import simulate_fleet as simulate_fleet
from sim.api import sweep as sweep
from sim.api import validate as validate

__version__: str
