# The cffi binding of native/engine/engine.h; hsmsim.hsm.engine gives it types.
from typing import Any

ffi: Any
lib: Any
