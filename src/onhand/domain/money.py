"""Money in integer minor units of an ISO 4217 currency, and what a quantity costs.

A price is a pair: `amount_minor` buys `price_quantity` base units, so 263 cents may buy 3785 ml of fuel and no fraction
of a cent is ever stored.
"""

from __future__ import annotations

from types import MappingProxyType

from onhand.domain.errors import AmountTooLarge, CurrencyUnknown

# Any one amount (a price, a line, a cart, an order): ten million million of a currency with cents. A sum of a thousand
# such lines stays inside a bigint, and every amount inside what a JSON number holds exactly.
AMOUNT_MINOR_MAX = 1_000_000_000_000_000

# The digits after the point of every active currency, by ISO 4217 (list one). Codes that are no money in a shop
# (metals, bond units, testing) are left out.
_CODES_BY_EXPONENT = {
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF",
    2: (
        "AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD "
        "CDF CHE CHF CHW CNY COP COU CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD "
        "GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA "
        "MKD MMK MNT MOP MRU MUR MVR MWK MXN MXV MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR "
        "RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD "
        "TZS UAH USD USN UYU UZS VED VES WST XCD XCG YER ZAR ZMW ZWG"
    ),
    3: "BHD IQD JOD KWD LYD OMR TND",
    4: "CLF UYW",
}
EXPONENTS = MappingProxyType(
    {code: exponent for exponent, codes in _CODES_BY_EXPONENT.items() for code in codes.split()}
)


def exponent(currency: str) -> int:
    """The digits after the point: 2 for USD, 0 for JPY. Raises `CurrencyUnknown`."""
    try:
        return EXPONENTS[currency]
    except KeyError:
        raise CurrencyUnknown(currency) from None


def line_total(amount_minor: int, price_quantity: int, quantity: int) -> int:
    """What `quantity` base units cost in minor units, half a unit rounded up. Raises `AmountTooLarge`."""
    if amount_minor < 0 or price_quantity < 1 or quantity < 0:
        raise ValueError(f"no price or quantity: {amount_minor} for {price_quantity}, {quantity} wanted")
    return checked((2 * amount_minor * quantity + price_quantity) // (2 * price_quantity))


def checked(amount_minor: int) -> int:
    """The amount itself, if it is small enough to be one. Raises `AmountTooLarge`."""
    if amount_minor > AMOUNT_MINOR_MAX:
        raise AmountTooLarge(amount_minor, AMOUNT_MINOR_MAX)
    return amount_minor
