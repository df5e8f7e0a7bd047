"""The kinds of devices that accelerator files choose from."""

from __future__ import annotations

from sim.devices.asic import Asic
from sim.devices.cpu import Cpu
from sim.devices.device import Device
from sim.devices.fpga import Fpga
from sim.devices.gpu import Gpu
from sim.devices.matrix_engine import MatrixEngine
from sim.devices.systolic import Systolic

DEVICES: dict[str, Device] = {
    "gpu": Gpu(),
    "systolic": Systolic(),
    "tpu": Systolic(),
    "matrix_engine": MatrixEngine(),
    "cpu": Cpu(),
    "fpga": Fpga(),
    "asic": Asic(),
}
