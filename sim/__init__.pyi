from sim.api import check as check
from sim.api import simulate as simulate
from sim.api import simulate_fleet as simulate_fleet
from sim.api import sweep as sweep
from sim.errors import ConfigError as ConfigError

__version__: str
