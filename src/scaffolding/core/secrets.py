"""What must not be written down: keys and passwords in settings, command lines, texts and files.

Not every token or key is a secret: pad_token and sort_key are settings, which a resumed run must find again.
"""

import re
from typing import Any

HIDDEN = "***"

# last parts of names that mean a secret, also where the value is a number
PASSWORD = r"\w*(secret|password|passwd|passphrase|credential)s?|pwd|pin"
# those that mean a secret where it is a text
KINDS = (
    "access|account|anthropic|api|app|auth|aws|azure|bearer|bot|client|comet|databricks|deploy|discord|encryption|gcp"
    "|gh|git|github|gitlab|google|gpg|hf|hub|huggingface|kaggle|license|master|mlflow|neptune|npm|openai|private|pypi"
    "|refresh|sas|secret|security|service|session|signing|slack|ssh|ssl|storage|subscription|telegram|tracking|wandb"
    "|webhook"
)
NAMED = (
    rf"(\w+_)?({KINDS})_?(key|token)|token|key|(\w+_)?id_token|\w*secret_(access_)?key|(\w+_)?access_key_id"
    r"|pass|(\w+_)?(admin|db|proxy|root|smtp|user)_pass|(proxy_)?authorization|auth|bearer|(set_)?cookies?|dsn|jwt"
    r"|(\w+_)?connection_string|(\w+_)?webhook_url"
)
PASSWORD_NAME = re.compile(rf"(^|[./+~])({PASSWORD})$", re.IGNORECASE)
SECRET_NAME = re.compile(rf"(^|[./+~])({PASSWORD}|{NAMED})$", re.IGNORECASE)
HIDDEN_PART = re.compile(r"(^|[=\s:])\*\*\*(@|&|\s|$)")
LEFT_VISIBLE = {"", "null", "none", "true", "false", HIDDEN}

# keys as services write them; find_key says which it found
KEYS = {
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "a key of GitHub": r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_\w{40,})",
    "a key of GitLab": r"\bglpat-[\w-]{20,}",
    "a key of Hugging Face": r"\bhf_[A-Za-z0-9]{30,}",
    "a key of AWS": r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    "a key of OpenAI or Anthropic": r"\bsk-(?:proj-|ant-)?[\w-]{32,}",
    "a key of Slack": r"\bxox[abprs]-[\w-]{20,}",
    "a key of Google": r"\bAIza[\w-]{35}",
}
KEY = re.compile("|".join(KEYS.values()))
KEY_BYTES = {what: re.compile(pattern.encode()) for what, pattern in KEYS.items()}
# other secrets within a text, each with what stands before it; bounded, as a stranger's text may be made to take long
ADDRESS = re.compile(
    r"(\b[a-z][a-z0-9+.-]{1,20}://)(?:([^\s/:@'\"]{0,99}:)[^\s/'\"]{1,999}|[^\s/:@'\"]{20,999})(?=@)", re.IGNORECASE
)
BEARER = re.compile(
    r"(\bauthorization['\"]?\s*[:=]\s*['\"]?(?:(?:bearer|basic|token)\s+)?|\bbearer\s+)[\w.~+/=-]{6,}", re.IGNORECASE
)
VALUE = r"""('[^']*'|"[^"]*"|[^\s,&}\]'"]+)"""
PAIRS = [  # (before, name, between, value): hidden where the name says so
    re.compile(rf"""((?<![\w-])--)([\w-]+)(['"]?\s*[=,]\s*|\s+){VALUE}"""),  # of a command or a list of its words
    re.compile(rf"""(['"])([\w-]+)(['"]\s*:\s*){VALUE}"""),  # of a printed dict
    re.compile(rf"([?&])([\w-]+)(=){VALUE}"),  # of an address
    re.compile(rf"(\b)(\w{{1,40}}_\w{{1,40}})(\s?=\s?){VALUE}"),  # of the environment
]
SETTING = re.compile(rf"((?<![\w.-]))([\w.-]+)(\s*:\s*){VALUE}")

KEY_FILES = re.compile(
    r"\.env(\..*)?|.*\.env|.*\.(pem|key|p12|pfx|jks|keystore|kdbx|ppk|gpg)|id_(rsa|dsa|ecdsa|ed25519)(_sk)?|[._]?netrc"
    r"|\.(npmrc|pypirc|pgpass|git-credentials|htpasswd|dockercfg)|kaggle\.json|client_secret.*\.json|.*(credential|service[_-]account).*"
    rf"|({PASSWORD}|{NAMED})(\.(txt|json|ya?ml|toml|ini|cfg|conf))?",
    re.IGNORECASE,
)
NO_KEY_FILES = re.compile(r".*[._-](example|sample|template|dist)(\.\w+)?|.*\.(py|pyi|ipynb|md|rst|pub)", re.IGNORECASE)


def is_key_file(name: str) -> bool:
    """Whether a file's name says that it holds keys: `.env.local`, `id_rsa`, `credentials.json`."""
    return bool(KEY_FILES.fullmatch(name)) and not NO_KEY_FILES.fullmatch(name)


def find_key(content: bytes) -> str:
    """What kind of key a file holds; "": none that is known."""
    return next((what for what, pattern in KEY_BYTES.items() if pattern.search(content)), "")


def is_secret(name: str, value: Any) -> bool:
    """Whether the last part of a dotted name says that the value is a secret."""
    name = name.replace("-", "_")
    if isinstance(value, str):
        return value.lower() not in LEFT_VISIBLE and SECRET_NAME.search(name) is not None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and PASSWORD_NAME.search(name) is not None


def is_hidden(value: Any) -> bool:
    """Whether something of a value was hidden when it was written down."""
    return isinstance(value, str) and HIDDEN_PART.search(value) is not None


def without_keys(text: str, is_config: bool = False) -> str:
    """A text with the passwords, keys and tokens in it replaced by ***; in a config also all of `name: value`."""
    text = KEY.sub(HIDDEN, text)
    text = ADDRESS.sub(lambda found: f"{found[1]}{found[2] or ''}{HIDDEN}", text)
    text = BEARER.sub(rf"\1{HIDDEN}", text)
    for pattern in (*PAIRS, SETTING) if is_config else PAIRS:
        text = pattern.sub(_hide_pair, text)
    return text


def _hide_pair(found: re.Match[str]) -> str:
    before, name, between, value = found.groups()
    if is_secret(name, value) and value != f"{HIDDEN}:":  # hidden already, in a message that goes on
        value = HIDDEN
    return before + name + between + value


def hide_secrets(plain: Any, name: str = "") -> Any:
    """A plain config with its secrets replaced by ***: values of secret-looking keys, and secrets within texts."""
    if isinstance(plain, dict):
        return {key: hide_secrets(value, str(key)) for key, value in plain.items()}
    if isinstance(plain, list | tuple):
        before, values = None, []
        for value in plain:
            option = before if isinstance(before, str) and before.startswith("--") else ""
            values.append(hide_secrets(value, option.lstrip("-") or name))
            before = value
        return type(plain)(values)
    if is_secret(name, plain):
        return HIDDEN
    if isinstance(plain, str):
        return without_keys(plain)
    return plain
