# The cffi binding of native/binding/signer.h; hsmsim.native gives it types.
from typing import Any

ffi: Any
lib: Any
