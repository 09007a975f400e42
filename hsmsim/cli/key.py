"""`hsmsim key list|generate|import|generate-file|delete|share|unshare|trust`."""

from __future__ import annotations

from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hsmsim.cli import login, show
from hsmsim.errors import HsmsimError
from hsmsim.fleet import keyfile, keyreference, keys
from hsmsim.fleet.modulecfg import TOKEN
from hsmsim.hsm.cryptoki import CKK
from hsmsim.storage.files import write_new

if TYPE_CHECKING:
    from hsmsim.cli.login import Acting, Command
    from hsmsim.fleet.keys import Wish


class Handle(click.ParamType[int]):
    """A key's handle, decimal or 0x and hexadecimal."""

    name = "handle"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:  # noqa: ANN401
        """Read it."""
        try:
            return value if isinstance(value, int) else int(value, 0)
        except ValueError:
            self.fail(f"{value!r} is not a handle; hsmsim key list shows them", param, ctx)


class KeyId(click.ParamType[bytes]):
    """A CKA_ID in hexadecimal."""

    name = "hex"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> bytes:  # noqa: ANN401
        """Read it."""
        try:
            return value if isinstance(value, bytes) else bytes.fromhex(value)
        except ValueError:
            self.fail(f"{value!r} is not hexadecimal", param, ctx)


def which(command: Command) -> Command:
    """Add a handle argument and --label, one of which says which keys are meant."""
    command = click.option("--label", help="Every key of this label, instead of a handle.")(command)
    return click.argument("handle", type=Handle(), required=False)(command)


def wished(command: Command) -> Command:
    """Add the options of a new key; the command gets them as `wish`."""

    @click.option("--label", required=True, help="CKA_LABEL of the key, of both halves of a pair.")
    @click.option("--id", "key_id", type=KeyId(), default=b"", help="CKA_ID in hexadecimal; random for key pairs.")
    @click.option("--extractable", is_flag=True, help="Let it be wrapped and taken out of the HSM.")
    @wraps(command)
    def wrapped(label: str, key_id: bytes, *, extractable: bool, **others: Any) -> None:  # noqa: ANN401
        command(wish=keys.Wish(label, key_id, extractable), **others)

    return wrapped


@click.group()
def key() -> None:
    """Keys in the HSM.

    Managed as a crypto user: by default the one that `hsmsim up` made.
    """


@key.command("list")
@click.option("--label", help="Only keys of this label.")
@login.as_user
@show.as_json
def list_(label: str | None, who: Acting, *, as_json: bool) -> None:
    """List the keys that you own, those shared with you, and public keys."""
    with who.connect() as client:
        found = keys.list_keys(client, label)
    if as_json:
        show.document([_as_document(one) for one in found])
        return
    rows = [
        [_hex(one.handle), one.label, _class(one), one.key_type.name, one.bits, one.owner, ", ".join(one.shared)]
        for one in found
    ]
    columns = ["HANDLE", "LABEL", "CLASS", "TYPE", "BITS", "OWNER", "SHARED WITH"]
    show.table(columns, rows, empty="There are no keys. Make one: hsmsim key generate --help")


def _hex(handle: int) -> str:
    return f"0x{handle:016x}"


def _class(one: keys.Key) -> str:
    return keys.CLASSES[one.object_class]


def _as_document(one: keys.Key) -> dict[str, object]:
    return {
        "handle": _hex(one.handle),
        "label": one.label,
        "id": one.id.hex(),
        "class": _class(one),
        "type": one.key_type.name,
        "bits": one.bits,
        "extractable": one.extractable,
        "owner": one.owner,
        "shared": list(one.shared),
    }


# ---- making ------------------------------------------------------------------------------------------------------


@key.group()
def generate() -> None:
    """Make a key inside the HSM. It never leaves it, unless it is --extractable and wrapped."""


def _make_pair(key_type: CKK, size: int | str, wish: Wish, who: Acting, *, as_json: bool) -> None:
    with show.progress() as say, who.connect() as client:
        say(f"Making the key pair {wish.label}")
        pair = keys.generate_pair(client, key_type, size, wish)
    _tell_pair(pair, wish.label, as_json=as_json)


def _tell_pair(pair: tuple[int, int], label: str, *, as_json: bool) -> None:
    public, private = (_hex(handle) for handle in pair)
    if as_json:
        show.document({"public_key": public, "private_key": private})
    else:
        click.echo(f"{label}: private key {private}, public key {public}")


def _make_secret(key_type: CKK, bits: int, wish: Wish, who: Acting, *, as_json: bool) -> None:
    with who.connect() as client:
        handle = _hex(keys.generate_secret(client, key_type, bits, wish))
    if as_json:
        show.document({"key": handle})
    else:
        click.echo(f"{wish.label}: key {handle}")


@generate.command()
@click.option("--bits", type=click.Choice(["2048", "3072", "4096"]), default="2048", show_default=True)
@wished
@login.as_user
@show.as_json
def rsa(bits: str, wish: Wish, who: Acting, *, as_json: bool) -> None:
    """RSA key pair: sign, decrypt, unwrap."""
    _make_pair(CKK.RSA, int(bits), wish, who, as_json=as_json)


@generate.command()
@click.option("--curve", type=click.Choice(list(keyfile.CURVES)), default="P-256", show_default=True)
@wished
@login.as_user
@show.as_json
def ec(curve: str, wish: Wish, who: Acting, *, as_json: bool) -> None:
    """EC key pair: ECDSA signatures, ECDH."""
    _make_pair(CKK.EC, curve, wish, who, as_json=as_json)


@generate.command()
@wished
@login.as_user
@show.as_json
def ed25519(wish: Wish, who: Acting, *, as_json: bool) -> None:
    """Ed25519 key pair: signatures."""
    _make_pair(CKK.EC_EDWARDS, "Ed25519", wish, who, as_json=as_json)


@generate.command()
@click.option("--bits", type=click.Choice(["128", "192", "256"]), default="256", show_default=True)
@wished
@login.as_user
@show.as_json
def aes(bits: str, wish: Wish, who: Acting, *, as_json: bool) -> None:
    """AES key: encrypt, CMAC, wrap other keys."""
    _make_secret(CKK.AES, int(bits), wish, who, as_json=as_json)


@generate.command("generic-secret")
@click.option("--bits", type=click.IntRange(8, 6400), default=256, show_default=True, help="A multiple of 8.")
@wished
@login.as_user
@show.as_json
def generic_secret(bits: int, wish: Wish, who: Acting, *, as_json: bool) -> None:
    """Generic secret: HMAC, key derivation."""
    if bits % 8:
        raise click.UsageError("--bits is a multiple of 8")
    _make_secret(CKK.GENERIC_SECRET, bits, wish, who, as_json=as_json)


@key.command("import")
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option(
    "--passphrase-file",
    type=click.Path(path_type=Path, allow_dash=True),
    help="First line: the passphrase of an encrypted key; - for standard input. Else it is asked.",
)
@wished
@login.as_user
@show.as_json
def import_(file: Path, passphrase_file: Path | None, wish: Wish, who: Acting, *, as_json: bool) -> None:
    """Bring the private key that you have: PEM or DER, PKCS#1, SEC 1, PKCS#8, encrypted PKCS#8.

    RSA, EC and Ed25519. FILE may be - for standard input. The file is left as it is: keep it safe, or destroy it.
    """
    with click.open_file(str(file), "rb") as opened:
        data = opened.read()
    passphrase = None
    if keyfile.is_encrypted(data):
        passphrase = show.secret(f"Passphrase of {file}", passphrase_file, "--passphrase-file")
    parsed = keyfile.read(data, passphrase)
    with who.connect() as client:
        pair = keys.import_key(client, parsed, wish)
    _tell_pair(pair, wish.label, as_json=as_json)


@key.command("generate-file")
@which
@click.option("--id", "key_id", type=KeyId(), default=b"", help="CKA_ID in hexadecimal, instead of a handle or label.")
@click.option("--path", type=click.Path(path_type=Path), required=True, help="The file to write; it must not exist.")
@click.option("--token", default=TOKEN, show_default=True, help="The token's label in the module's configuration.")
@login.as_user
def generate_file(handle: int | None, label: str | None, key_id: bytes, path: Path, token: str, who: Acting) -> None:
    r"""Write a PEM file that names a private key, for programs that want a key file: nginx, HAProxy, openssl.

    The file holds the key's PKCS#11 URI and no secret; the key stays in the HSM. OpenSSL 3 reads it through
    hsmsim-provider.so, which stands beside $HSMSIM_MODULE and is activated in openssl.cnf. The PIN comes from
    $HSMSIM_PIN or from the file that pin-source in openssl.cnf names.

    \b
      hsmsim key generate ec --label web
      hsmsim key generate-file --label web --path web.key
      openssl req -new -x509 -key web.key -subj /CN=localhost -out web.crt
    """
    with who.connect() as client:
        meant = keyreference.private_key(client, handle=handle, label=label, key_id=key_id)
    name = keyreference.uri(meant, token)
    try:
        write_new(path, keyreference.document(name))
    except FileExistsError as error:
        raise HsmsimError(f"{path} exists. Move it away, or choose another --path") from error
    except OSError as error:
        raise HsmsimError(f"{path} cannot be written: {error.strerror}. Choose another --path") from error
    click.echo(f"{path} names {_hex(meant.handle)}: {name}")


# ---- changing ----------------------------------------------------------------------------------------------------


@key.command()
@which
@click.option("--yes", is_flag=True, help="Do not ask.")
@login.as_user
def delete(handle: int | None, label: str | None, who: Acting, *, yes: bool) -> None:
    """Destroy keys that you own, in every HSM. There is no way back but a backup."""
    with who.connect() as client:
        meant = keys.chosen(client, handle, label)
        if not yes:
            click.confirm(f"Destroy {', '.join(map(_hex, meant))}?", abort=True, err=True)
        for one in meant:
            keys.delete(client, one)
    click.echo(f"Destroyed {', '.join(map(_hex, meant))}.")


@key.command()
@which
@click.option("--with", "other", required=True, help="Crypto user who may use the key.")
@login.as_user
def share(handle: int | None, label: str | None, other: str, who: Acting) -> None:
    """Let another crypto user of the partition use a key of yours: not export, delete or change it."""
    with who.connect() as client:
        meant = keys.shareable(client, keys.chosen(client, handle, label))
        for one in meant:
            keys.share(client, one, other)
    click.echo(f"{other} may use {', '.join(map(_hex, meant))}.")


@key.command()
@which
@click.option("--from", "other", required=True, help="Crypto user who may use it no longer.")
@login.as_user
def unshare(handle: int | None, label: str | None, other: str, who: Acting) -> None:
    """Take a share back. When this returns, no HSM does anything more under it."""
    with who.connect() as client:
        meant = keys.shareable(client, keys.chosen(client, handle, label))
        for one in meant:
            keys.unshare(client, one, other)
    click.echo(f"{other} may use {', '.join(map(_hex, meant))} no longer.")


@key.command()
@click.argument("handle", type=Handle())
@click.option("--off", is_flag=True, help="Take the trust back.")
@login.as_admin
def trust(handle: int, who: Acting, *, off: bool) -> None:
    """Mark a wrapping key as trusted (CKA_TRUSTED), as an admin.

    Keys with CKA_WRAP_WITH_TRUSTED can be wrapped by trusted keys only.
    """
    with who.connect() as client:
        keys.trust(client, handle, trusted=not off)
    click.echo(f"{_hex(handle)} is {'not ' if off else ''}trusted.")
