"""A stand-in for `pynvml`: one simulated GPU whose faults a test switches on. Numbers are made up."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, ClassVar

NOT_SUPPORTED, NO_PERMISSION, NOT_FOUND, FUNCTION_NOT_FOUND, LIBRARY_NOT_FOUND = 3, 4, 6, 13, 12
TEXTS = {
    NOT_SUPPORTED: "Not Supported",
    NO_PERMISSION: "Insufficient Permissions",
    NOT_FOUND: "Not Found",
    FUNCTION_NOT_FOUND: "Function Not Found",
    LIBRARY_NOT_FOUND: "NVML Shared Library Not Found",
}


class NVMLError(Exception):
    """Like pynvml's: made from a number, it becomes the subclass of that number."""

    numbers: ClassVar[dict[int, type[NVMLError]]] = {}

    def __new__(cls, value: int) -> NVMLError:
        return super().__new__(cls.numbers.get(value, cls))

    def __init__(self, value: int) -> None:
        super().__init__(TEXTS[value])
        self.value = value


class NVMLErrorNotSupported(NVMLError):
    pass


class NVMLErrorNoPermission(NVMLError):
    pass


class NVMLErrorFunctionNotFound(NVMLError):
    pass


NVMLError.numbers = {
    NOT_SUPPORTED: NVMLErrorNotSupported,
    NO_PERMISSION: NVMLErrorNoPermission,
    FUNCTION_NOT_FOUND: NVMLErrorFunctionNotFound,
}


class FakeNvml:
    """The functions that the meter calls. `read` gives (joules, watts); `refuse` maps a field or function to an error."""

    NVMLError = NVMLError
    NVMLError_NotSupported = NVMLErrorNotSupported
    NVMLError_NoPermission = NVMLErrorNoPermission
    NVMLError_FunctionNotFound = NVMLErrorFunctionNotFound
    UUID = "GPU-11111111-2222-3333-4444-555555555555"
    PCI = "00000000:0a:00.0"

    def __init__(
        self,
        read: Callable[[], tuple[float, float]] = lambda: (1000.0, 300.0),
        refuse: dict[Any, int] | None = None,
        missing: tuple[str, ...] = (),
        scope: int = 0,
        architecture: int = 9,
    ) -> None:
        self.read, self.refuse, self.scope, self.architecture = read, refuse or {}, scope, architecture
        self.samples: list[tuple[int, int]] = [(1_000_000, 300_000)]
        self.called: list[str] = []
        self._missing = missing

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("nvml"):
            if name in object.__getattribute__(self, "_missing"):
                raise AttributeError(name)
            object.__getattribute__(self, "called").append(name)
            number = object.__getattribute__(self, "refuse").get(name)
            if number is not None:
                return lambda *_: (_ for _ in ()).throw(NVMLError(number))
        return object.__getattribute__(self, name)

    def nvmlInit(self) -> None:
        pass

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        return self._handle(uuid == self.UUID)

    def nvmlDeviceGetHandleByPciBusId(self, pci: str) -> str:
        return self._handle(pci == self.PCI)

    def _handle(self, known: bool) -> str:
        if not known:
            raise NVMLError(NOT_FOUND)
        return "handle"

    def nvmlDeviceGetFieldValues(self, handle: str, fields: list[tuple[int, int]]) -> list[Any]:
        return [self._field(*field) for field in fields]

    def _field(self, field: int, scope: int) -> Any:
        number = self.refuse.get(field, NOT_SUPPORTED if scope != self.scope else 0)
        joules, watts = self.read()
        values = {83: joules * 1e3, 186: watts * 1e3, 74: 5e9, 271: 1e9, 75: 2e9, 269: 0.0, 270: 0.0}
        value = int(values.get(field, 0))
        return SimpleNamespace(nvmlReturn=number, valueType=3, value=SimpleNamespace(ullVal=value))

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        return int(self.read()[0] * 1e3)

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:
        return int(self.read()[1] * 1e3)

    def nvmlDeviceGetArchitecture(self, handle: str) -> int:
        return self.architecture

    def nvmlDeviceGetSamples(self, handle: str, kind: int, since_us: int) -> tuple[int, list[Any]]:
        newer = [x for x in self.samples if x[0] > since_us]
        if not newer:
            raise NVMLError(NOT_FOUND)
        return 1, [SimpleNamespace(timeStamp=us, sampleValue=SimpleNamespace(uiVal=mw)) for us, mw in newer]

    def nvmlDeviceGetTemperature(self, handle: str, sensor: int) -> int:
        return 55

    def nvmlDeviceGetClockInfo(self, handle: str, clock: int) -> int:
        return {1: 1755, 2: 2619}[clock]

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[Any]:
        return [SimpleNamespace(pid=1)]

    def nvmlDeviceGetUUID(self, handle: str) -> str:
        return self.UUID

    def nvmlDeviceGetName(self, handle: str) -> str:
        return "NVIDIA Fake 100"

    def nvmlDeviceGetPowerManagementLimit(self, handle: str) -> int:
        return 700_000

    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.00"
