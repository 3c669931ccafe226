"""Issue a permissioned token: the workflow `asset.issue`.

Every step asks the chain what is missing and sends only that, so it may be repeated after any crash. What can't be taken
back comes after what can fail: nobody holds a token before its compliance rules were read back from the chain.
"""

from typing import Annotated

from django.conf import settings
from django.db.models.functions import Now
from pydantic import Field, field_validator

from dalp.assets.calls import PATIENT, contract
from dalp.assets.eligibility import Standing, broken_rules, read_standings, require_free_symbol, require_room
from dalp.assets.holders import index_holders
from dalp.assets.models import Asset, AssetState
from dalp.assets.notices import send_notices
from dalp.assets.platforms import OnChain, platform_on
from dalp.assets.registration import register_holders
from dalp.assets.suites import compliance_settings, deploy_suite, missing_issue, pause_if_open
from dalp.assets.values import (
    AMOUNT_MAX,
    ZERO_ADDRESS,
    Address,
    Amount,
    ChainId,
    Country,
    Email,
    Input,
    Name,
    Output,
    Symbol,
    distinct,
)
from keyguard import find_key
from signer import Contract, Receipt, TransactionRequest
from workflows import Operation, PermanentError, StepFailure, TransientError, Workflow, step


class Allocation(Input):
    """What one investor receives, in base units."""

    wallet: Address
    amount: Amount
    email: Email


class IssueAssetInput(Input):
    """A token, who receives its first supply, and the rules it keeps from then on."""

    chain_id: ChainId
    name: Name
    symbol: Symbol
    decimals: Annotated[int, Field(strict=True, ge=0, le=18)] = 0
    investors: Annotated[
        list[Allocation],
        Field(min_length=1, max_length=50),
        distinct("wallet", lambda allocation: allocation.wallet),
    ]
    countries: Annotated[list[Country], Field(min_length=1, max_length=249), distinct("country")]
    max_balance: Amount  # per identity; the compliance contract decides, at every mint and transfer
    stakeholders: Annotated[list[Email], Field(max_length=20), distinct("address")] = []

    @field_validator("investors")
    @classmethod
    def _supply_fits(cls, investors: list[Allocation]) -> list[Allocation]:
        if sum(allocation.amount for allocation in investors) > AMOUNT_MAX:
            raise ValueError("the amounts add up to more than 2^256 - 1")
        return investors

    @property
    def holdings(self) -> list[tuple[str, int]]:
        return [(allocation.wallet, allocation.amount) for allocation in self.investors]

    @property
    def supply(self) -> int:
        return sum(allocation.amount for allocation in self.investors)


class Eligibility(Output):
    """What was known about the investors when they were found eligible; the token is younger than the block."""

    investors: list[Standing]
    older_block: int


class TokenSuite(Output):
    """Where the token and its own contracts are."""

    token: Address
    identity_registry: Address
    compliance: Address


class Compliance(Output):
    """The rules as the chain shows them."""

    countries: list[int]
    max_balance: Amount


class Holding(Output):
    wallet: Address
    amount: Amount


class Supply(Output):
    """Who holds what, as the chain shows it."""

    total: Amount
    holders: list[Holding]


class IssuedAsset(Output):
    """The asset at the end of its issuance. `registration` is empty where no identity provider is configured."""

    chain_id: int
    name: str
    symbol: str
    decimals: int
    token: Address
    identity_registry: Address
    compliance: Address
    supply: Amount
    holders: list[Holding]
    registration: str


class IssueAsset(Workflow[IssueAssetInput, IssuedAsset]):
    """Eligibility, deployment, compliance, first mint, registration with the identity provider, notices."""

    class Meta:
        name, version, queue = "asset.issue", 1, "assets"
        key = "asset:{input.chain_id}:{input.symbol}"  # one operation per asset at a time

    @step(retry=PATIENT)
    def verify_eligibility(self, input: IssueAssetInput) -> Eligibility:
        """Refuse the issuance before its first transaction, naming every investor and rule that stands against it."""
        platform = platform_on(input.chain_id)
        require_free_symbol(input.chain_id, input.symbol)
        require_room(platform)
        standings = read_standings(platform, [allocation.wallet for allocation in input.investors])
        broken = [
            rule for each in standings for rule in broken_rules(each, input.countries, platform.claim_topic)
        ]
        if broken:
            raise PermanentError("ASSET_INVESTOR_NOT_ELIGIBLE", "; ".join(broken))
        return Eligibility(investors=standings, older_block=platform.view.undisputed_block())

    @verify_eligibility.undo(retry=PATIENT)
    def notify_stopped(self, input: IssueAssetInput, operation: Operation, failure: StepFailure) -> int:
        """The last thing of a compensation: tell the investors that nothing came of it, and why."""
        text = (
            f"The issuance of {input.name} ({input.symbol}) was stopped. You hold none of it, and its token is paused.\n\n"
            f"Reason: {failure.message} ({failure.code}, at the step {failure.step}).\n"
        )
        return send_notices(
            operation.key, f"{input.symbol}: issuance stopped", dict.fromkeys(_recipients(input), text)
        )

    @step(effect="verify", retry=PATIENT)
    def deploy_token(
        self, input: IssueAssetInput, operation: Operation, verify_eligibility: Eligibility
    ) -> list[TransactionRequest]:
        """Deploy the suite, paused and bound to both modules, which let nobody receive it until they are set."""
        platform = platform_on(input.chain_id)
        request = deploy_suite(
            platform.deployer,
            platform.token_factory,
            _salt(input, operation),
            owner=find_key(platform.deployer_key).address,
            claim_issuer=platform.addresses.claim_issuer,
            name=input.name,
            symbol=input.symbol,
            decimals=input.decimals,
            storage=platform.addresses.identity_storage,
            modules=[platform.addresses.country_allow, platform.addresses.max_balance],
        )
        return [request]

    @deploy_token.verify
    def find_token(self, input: IssueAssetInput, operation: Operation) -> list[Receipt] | None:
        """The factory knows the token by its salt: nothing to send then."""
        return None if _token(platform_on(input.chain_id), input, operation) is None else []

    @deploy_token.undo(retry=PATIENT)
    def pause_token(
        self, input: IssueAssetInput, operation: Operation, deploy_token: list[Receipt]
    ) -> list[TransactionRequest]:
        """A deployment can't be taken back; nobody shall move the token either.

        Pausing doesn't stop a mint. That none comes late follows from the mint's step: it failed when its transactions
        had settled, their nonces are used, and a run that compensates sends no new ones.
        """
        platform = platform_on(input.chain_id)
        token = _token(platform, input, operation)
        return [] if token is None else pause_if_open(platform, token, input.symbol)

    @step(retry=PATIENT)
    def confirm_deployment(
        self, input: IssueAssetInput, operation: Operation, deploy_token: list[Receipt]
    ) -> TokenSuite:
        """Find the suite's contracts from the factory on, and see that it is the token that was asked for."""
        platform = platform_on(input.chain_id)
        token = _token(platform, input, operation)
        if token is None:
            raise TransientError("TOKEN_NOT_SHOWN", "the factory doesn't show the token yet")
        names = ("identityRegistry", "compliance", "name", "symbol", "decimals")
        registry, compliance, *shown = platform.view.read_many([(token, name, ()) for name in names])
        if shown != [input.name, input.symbol, input.decimals]:
            raise PermanentError("TOKEN_NOT_AS_ASKED", f"the token {token.address} is {shown}")
        return TokenSuite(token=str(token.address), identity_registry=registry, compliance=compliance)

    @step(effect="transactional")
    def record_asset(
        self,
        input: IssueAssetInput,
        operation: Operation,
        verify_eligibility: Eligibility,
        confirm_deployment: TokenSuite,
    ) -> str:
        """Keep the asset for people to find, and have its holders kept; from here on its symbol is taken."""
        asset = Asset.objects.create(
            chain_id=input.chain_id,
            symbol=input.symbol,
            name=input.name,
            decimals=input.decimals,
            run_id=operation.run_id,
            **confirm_deployment.model_dump(),
        )
        index_holders(asset, verify_eligibility.older_block)
        return str(asset.pk)

    @record_asset.undo(effect="transactional")
    def mark_stopped(self, record_asset: str) -> None:
        """The symbol may be issued anew; this token stays where it is, paused."""
        Asset.objects.filter(pk=record_asset).update(state=AssetState.STOPPED, updated_at=Now())

    @step(undo=False, retry=PATIENT)  # the token stays paused: its rules bind nobody
    def configure_compliance(
        self, input: IssueAssetInput, confirm_deployment: TokenSuite
    ) -> list[TransactionRequest]:
        """Set the modules through the compliance contract, where they aren't set like that already."""
        platform = platform_on(input.chain_id)
        compliance = contract("ModularCompliance", confirm_deployment.compliance)
        countries, maximum = compliance_settings(platform, compliance)
        wanted: list[tuple[Contract, str, object]] = []
        if countries != input.countries:
            wanted.append((platform.country_allow, "setAllowedCountries", input.countries))
        if maximum != input.max_balance:
            wanted.append((platform.max_balance, "setMaxBalance", input.max_balance))
        return [
            platform.deployer.call(
                compliance,
                "callModuleFunction",
                module.encode(function, value),
                module.address,
                label=function,
            )
            for module, function, value in wanted
        ]

    @step(retry=PATIENT)
    def confirm_compliance(
        self, input: IssueAssetInput, confirm_deployment: TokenSuite, configure_compliance: list[Receipt]
    ) -> Compliance:
        """Read the rules back: a token whose modules are missing or set otherwise is never minted."""
        platform = platform_on(input.chain_id)
        compliance = contract("ModularCompliance", confirm_deployment.compliance)
        bound = platform.view.read(compliance, "getModules")
        countries, maximum = compliance_settings(platform, compliance)
        modules = {platform.addresses.country_allow, platform.addresses.max_balance}
        if set(bound) != modules or countries != input.countries or maximum != input.max_balance:
            shown = f"modules {bound}, countries {countries}, maximum {maximum}"
            raise PermanentError(
                "COMPLIANCE_NOT_AS_ASKED", f"the compliance {compliance.address} has {shown}"
            )
        return Compliance(countries=countries, max_balance=maximum)

    @step(effect="verify", retry=PATIENT)
    def mint_and_unpause(
        self, input: IssueAssetInput, confirm_deployment: TokenSuite, confirm_compliance: Compliance
    ) -> list[TransactionRequest]:
        """Mint everything in one transaction, all or nothing, and open the token; the lane keeps this order."""
        return missing_issue(
            platform_on(input.chain_id), confirm_deployment.token, input.symbol, input.holdings
        )

    @mint_and_unpause.verify
    def find_supply(self, input: IssueAssetInput, confirm_deployment: TokenSuite) -> list[Receipt] | None:
        """The supply is there and the token open: nothing to send then."""
        return (
            None
            if missing_issue(
                platform_on(input.chain_id), confirm_deployment.token, input.symbol, input.holdings
            )
            else []
        )

    @mint_and_unpause.undo(retry=PATIENT)
    def burn_supply(self, input: IssueAssetInput, confirm_deployment: TokenSuite) -> list[TransactionRequest]:
        """Close the token, then burn what was minted. Where holders moved it already, a person must decide."""
        platform = platform_on(input.chain_id)
        token = contract("Token", confirm_deployment.token)
        requests = pause_if_open(platform, token, input.symbol)
        if platform.view.read(token, "totalSupply"):
            wallets, amounts = zip(*input.holdings, strict=True)
            label = f"burn the supply of {input.symbol}"
            requests.append(platform.deployer.call(token, "batchBurn", wallets, amounts, label=label))
        return requests

    @step(retry=PATIENT)
    def confirm_supply(
        self, input: IssueAssetInput, confirm_deployment: TokenSuite, mint_and_unpause: list[Receipt]
    ) -> Supply:
        """Read from the chain who holds what."""
        platform = platform_on(input.chain_id)
        token = contract("Token", confirm_deployment.token)
        calls = [(token, "balanceOf", (allocation.wallet,)) for allocation in input.investors]
        total, paused, *balances = platform.view.read_many(
            [(token, "totalSupply", ()), (token, "paused", ()), *calls]
        )
        if paused or total != input.supply:
            raise PermanentError(
                "SUPPLY_NOT_AS_ASKED", f"the token {token.address} has {total}, paused: {paused}"
            )
        # Not compared one by one: the token is open, so the holders may have moved some of it already.
        holders = zip(input.investors, balances, strict=True)
        return Supply(
            total=total,
            holders=[Holding(wallet=each.wallet, amount=balance) for each, balance in holders if balance],
        )

    @step(retry=PATIENT)
    def register_with_identity_provider(
        self,
        input: IssueAssetInput,
        operation: Operation,
        confirm_deployment: TokenSuite,
        confirm_supply: Supply,
    ) -> str:
        """Tell the identity provider who holds the token; it takes the same key twice as one request."""
        if not settings.IDENTITY_PROVIDER_URL:
            return ""
        body = {
            "chain_id": input.chain_id,
            "symbol": input.symbol,
            "name": input.name,
            "token": confirm_deployment.token,
            "holders": [holding.model_dump(mode="json") for holding in confirm_supply.holders],
        }
        return register_holders(settings.IDENTITY_PROVIDER_URL, body, operation.key)

    @step(retry=PATIENT)
    def notify_stakeholders(
        self, input: IssueAssetInput, operation: Operation, confirm_deployment: TokenSuite
    ) -> int:
        """Write to the investors and stakeholders, each on their own. See notices.py on what a crash may repeat."""
        texts = dict.fromkeys(_recipients(input), f"{input.name} ({input.symbol}) was issued.\n")
        for allocation in input.investors:
            texts[allocation.email] += f"{allocation.wallet} holds {allocation.amount} base units of it.\n"
        closing = f"The token is {confirm_deployment.token} on chain {input.chain_id}.\n"
        return send_notices(
            operation.key, f"{input.symbol}: issued", {to: text + closing for to, text in texts.items()}
        )

    @step(effect="transactional")
    def record_issuance(
        self,
        input: IssueAssetInput,
        record_asset: str,
        confirm_deployment: TokenSuite,
        confirm_supply: Supply,
        register_with_identity_provider: str,
        notify_stakeholders: int,
    ) -> IssuedAsset:
        """The asset is issued, and everybody knows."""
        Asset.objects.filter(pk=record_asset).update(
            state=AssetState.ISSUED, supply=str(confirm_supply.total), updated_at=Now()
        )
        return IssuedAsset(
            **input.model_dump(include={"chain_id", "name", "symbol", "decimals"}),
            **confirm_deployment.model_dump(),
            supply=confirm_supply.total,
            holders=confirm_supply.holders,
            registration=register_with_identity_provider,
        )


def _salt(input: IssueAssetInput, operation: Operation) -> str:
    """Return what the factory knows the run's token by: the same at every attempt, another for another run."""
    return f"{input.symbol}-{operation.run_id}"


def _recipients(input: IssueAssetInput) -> list[str]:
    return [allocation.email for allocation in input.investors] + input.stakeholders


def _token(platform: OnChain, input: IssueAssetInput, operation: Operation) -> Contract | None:
    address = platform.view.read(platform.token_factory, "getToken", _salt(input, operation))
    return None if address == ZERO_ADDRESS else contract("Token", address)
