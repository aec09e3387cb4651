"""What keeps tenants' prompts apart in an engine's prefix cache. Pure.

vLLM mixes the `cache_salt` of a request into the hash of its first block, so that only requests with the same salt
share cached blocks. How soon the first token comes tells whether a prompt was cached: so it must not be another's.
"""

import hmac
from base64 import urlsafe_b64encode
from functools import lru_cache

MOST_TENANTS = 4096  # whose salts are kept; those of others are computed again


class CacheSalts:
    """The salts of all tenants, from one secret. With `shared` tenants share what is cached.

    A client's own value divides what its tenant has, or what all share; it never leads to what another tenant has.
    """

    def __init__(self, secret: bytes, shared: bool = False) -> None:
        self._secret, self._shared = secret, shared
        self._of_tenant = lru_cache(MOST_TENANTS)(self._salt)

    def salt(self, tenant: str, value: str | None) -> str | None:
        """The salt for a request of this tenant: 43 characters of base64url, from which nothing can be told.

        `value` is the client's own salt. None where the request may share cached prompts with everyone.
        """
        if value is not None:
            return self._salt(f"{'' if self._shared else tenant}\0{value}")
        return None if self._shared else self._of_tenant(tenant)

    def _salt(self, text: str) -> str:
        digest = hmac.digest(self._secret, text.encode(errors="surrogatepass"), "sha256")
        return urlsafe_b64encode(digest).rstrip(b"=").decode()
