"""A set of 24 intents of a bank's customers, made for measuring classifiers: short, misspelt, easily confused.

What makes it hard: the classes come in groups that share their words (a card that is lost, stolen, refused, swallowed
or late), every text may carry a remark that belongs to another class, some phrases are said by customers of two
classes, letters are missing or swapped, and a quarter of the held-out texts are wordings that no training text has.
The same seed gives the same rows on any machine.

    python benchmarks/intents.py train.jsonl held_out.jsonl
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

ROWS, HELD_OUT = 100, 30  # of each class
NEW = 2  # wordings of each class, the last ones below, that only held-out texts have

INTENTS = {
    "card_lost": """
        I can't find my card anywhere
        my {card} must have fallen out of my pocket {when}
        left my {card} {place} and it is gone
        lost the {card}, what now
        I no longer have my {card}, I think I dropped it {place}
        misplaced my {card} {when}
        the {card} is nowhere to be found
        not sure where I put my {card}, please block it for the moment""",
    "card_stolen": """
        someone took my {card} {place}
        my wallet was snatched {when} with the {card} in it
        a thief has my {card}
        I was robbed {place}, block the {card}
        my bag was stolen and my {card} was inside
        pickpocketed {when}, need to stop my {card}
        my {card} is in the hands of a stranger, they grabbed my purse
        burglars were here {when} and the {card} is missing""",
    "card_declined": """
        my {card} was refused {place}
        the shop could not take my {card} {when}
        why is my {card} being rejected
        tried to pay {amount} {place} and the terminal said no
        {card} does not work in stores any more
        it says transaction declined each time I pay by {card}
        embarrassing, I stood {place} and could not pay with my {card}
        the reader keeps turning my {card} down""",
    "card_swallowed": """
        the machine kept my {card}
        the ATM ate my {card} {place}
        my {card} is stuck in the cash machine
        the cashpoint would not give my {card} back
        {card} was retained by the ATM {when}
        put my {card} into the machine and it never came out
        how do I get my {card} back out of the dispenser {place}
        the slot pulled my {card} in and the screen went black""",
    "card_arrival": """
        when will my new {card} come
        my {card} still hasn't arrived
        I ordered a {card} {when} and nothing is in the post
        how long does a {card} take to be delivered
        still waiting for the {card} you sent {when}
        can I track the letter with my {card}
        the postman brought everything but my {card}
        was promised a {card} within days, where is it""",
    "card_activation": """
        how do I activate my new {card}
        my {card} came {when}, how do I switch it on
        the {card} is here but not active yet
        need to enable the {card} I received
        what must I do before I can use the new {card}
        activation of my {card} does not go through
        got the envelope with my {card}, what is the first step
        unlock the fresh {card} please""",
    "pin_forgotten": """
        I forgot my PIN
        can't remember the code of my {card}
        what is the number I have to type for my {card}
        I need a reminder of my PIN
        the four digits for my {card} escaped me
        no idea what my PIN was
        my head is empty {place}, which code goes with the {card}
        my memory fails me, I stood at the ATM without the digits""",
    "pin_change": """
        I want to change my PIN
        how can I choose a different code for my {card}
        set a new PIN please
        can I pick my own number for the {card}
        where do I alter the code of my {card}
        my PIN is too easy to guess, I want another
        my son saw me type the digits, how do I replace them
        swap the four digits of my {card} for others""",
    "pin_blocked": """
        I typed the wrong PIN three times
        my PIN is blocked
        the code of my {card} is locked after too many tries
        too many attempts, now the {card} asks me to contact the bank
        how do I unblock my PIN
        entered a false code {place} and now nothing works
        the terminal says PIN tries exceeded
        I mistyped the digits again and again and am shut out""",
    "transfer_pending": """
        my transfer of {amount} has not arrived
        the money I sent {when} still shows as pending
        how long does a transfer take
        I sent {amount} to {person} {when} and they have not got it
        why is my payment to {person} not through yet
        transfer has been processing since {when}
        {person} is waiting for the {amount} from me
        the amount left my account {when} but reached nobody""",
    "transfer_failed": """
        my transfer did not go through
        sending {amount} to {person} gives an error
        the payment to {person} was rejected
        I tried to send money {when} and it failed
        the app won't let me transfer {amount}
        transfer came back to me {when}
        whatever I do the {amount} for {person} bounces
        each attempt to wire money ends with something went wrong""",
    "transfer_cancel": """
        I want to cancel a transfer
        sent {amount} to the wrong person, stop it
        can I take back the payment I made {when}
        please recall the {amount} I transferred
        I mistyped the account number, stop the transfer to {person}
        undo my last payment
        the {amount} went to a stranger by my own mistake, get it back
        {person} should not get that money after all, can you halt it""",
    "standing_order": """
        set up a monthly payment of {amount} to {person}
        how do I create a standing order
        I want to pay {person} {amount} every month
        change the date of my standing order
        stop the regular payment to {person}
        my standing order went out on the wrong day
        the rent should leave my account by itself on the first
        let {amount} go to {person} each week without me doing anything""",
    "direct_debit_dispute": """
        {company} took {amount} from my account without permission
        I did not agree to this direct debit
        return the debit of {amount} by {company}
        {company} collected money twice {when}
        there is a debit I never authorised
        how do I reverse a direct debit
        I left {company} long ago and they still take {amount}
        {company} helped itself to {amount}, I want that back""",
    "card_payment_unknown": """
        there is a card payment of {amount} I don't recognise
        I never bought anything at {company}
        a charge on my {card} is not mine
        what is this {amount} from {company} on my {card} statement
        someone used my {card} online {when}
        strange purchase on my {card} {when}
        my {card} was charged {place} and I was at home
        who paid {amount} with my {card}, certainly not me""",
    "refund_missing": """
        {company} says they refunded me but I don't see it
        where is my refund of {amount}
        I returned the goods {when} and the money is not back
        waiting for {amount} from {company} since {when}
        my refund has not shown up
        how long until a refund is on my {card}
        {company} swears the {amount} is on its way back to me
        sent the shoes back {when}, the credit never came""",
    "fee_question": """
        why was I charged a fee of {amount}
        what does it cost to withdraw abroad
        there is a {amount} charge from you I don't understand
        are there fees for a transfer to {country}
        how much do you take for the {card}
        you took {amount} and call it service charge
        what do I pay if I use the ATM of another bank
        is keeping an account with you free of charge""",
    "exchange_rate": """
        what exchange rate do you use
        the rate for my payment in {country} looks wrong
        I got too few euros for my {amount}
        how is the conversion done when I pay in {country}
        your rate differs from the one online
        which rate applied {when} in {country}
        converted my {amount} and it came out far too low
        do you take the day's rate when I shop in {country}""",
    "cash_withdrawal_wrong": """
        the ATM gave me less than I asked for
        I got no cash but {amount} was taken
        machine counted {amount} and handed out half
        withdrawal of {amount} {when} never came out
        cash machine {place} debited me without giving money
        received the wrong amount from the ATM
        the drawer stayed shut {place} and my balance dropped
        asked for {amount}, the notes I hold are not even half""",
    "balance_wrong": """
        my balance is not right
        there should be more on my account
        my balance has not changed after I paid in {amount}
        the app shows a different balance than the ATM
        {amount} is missing from my account
        I paid in cash {when} and it is not there
        by my own sums I ought to own {amount} more
        the figure at the top of the app cannot be true""",
    "address_change": """
        I have moved, change my address
        update my postal address
        where do I enter my new address
        moving to {country} {when}, what about my letters
        my letters still go to the old flat
        I need to correct the street in my profile
        from {when} on I live somewhere else
        you keep writing to a house I left""",
    "identity_check": """
        why do I have to verify my identity
        my verification does not go through
        the app does not accept the photo of my passport
        what documents do you need from me
        how long does the identity check take
        video identification failed {when}
        I held my licence to the camera and it was refused
        proving who I am seems impossible with you""",
    "login_problem": """
        I can't log in
        the app rejects my password
        locked out of online banking since {when}
        forgot my password
        the code for logging in never arrives
        app logs me out each time
        new phone, and now I do not get into my account
        it asks for a code by text and none comes""",
    "account_closure": """
        I want to close my account
        how do I leave your bank
        please delete my account and pay out {amount}
        cancel my contract with you
        what happens to my {card} when I close the account
        end our business relationship
        I am going to another bank, wind everything up
        done with you, shut it all down""",
}

# What customers of two classes say alike.
SHARED = {
    ("card_declined", "pin_blocked"): ["my {card} stopped working {place}", "the terminal will not take my {card}"],
    ("card_lost", "card_stolen"): ["my {card} is gone since {when}", "block my {card}, I don't have it any more"],
    ("card_arrival", "card_activation"): ["about the new {card} you sent me"],
    ("transfer_pending", "transfer_failed"): ["the {amount} for {person} did not get there"],
    ("transfer_cancel", "direct_debit_dispute"): ["I want the {amount} back that left my account {when}"],
    ("direct_debit_dispute", "card_payment_unknown"): ["{company} took {amount} and I don't know why"],
    ("balance_wrong", "refund_missing"): ["the {amount} has not been credited to me"],
    ("cash_withdrawal_wrong", "balance_wrong"): ["{amount} was taken off my balance at the ATM"],
    ("fee_question", "exchange_rate"): ["I paid more than expected in {country}"],
    ("pin_forgotten", "pin_change"): ["I need a new PIN for my {card}"],
    ("login_problem", "identity_check"): ["the app does not believe it is me"],
}
ALIKE = 0.05  # of the texts

OPENERS = (
    "",
    "",
    "",
    "",
    "hi, ",
    "hello, ",
    "good morning. ",
    "please help, ",
    "urgent: ",
    "sorry to bother you, ",
    "so ",
)
CLOSERS = ("", "", "", "", ".", "?", "!", " thanks", ", can you help?", " please", ", what can I do?", " - any idea?")
REMARKS = (
    "I already closed my other account with you",
    "my address is the same as before",
    "my PIN is fine by the way",
    "and no, I did not lose my card",
    "the transfer last week worked",
    "I don't care about the fee",
    "my balance is high enough",
    "I can log in without problems",
    "the refund from last month came at once",
    "I was abroad and the rate was good",
    "my wife has the same card and has no trouble",
    "the cash machine next door works",
    "my standing orders run as always",
    "I verified my identity years ago",
)
REMARKED = 0.35

SLOTS = {
    "card": ("card", "card", "card", "debit card", "credit card", "bank card", "visa"),
    "when": ("yesterday", "last week", "this morning", "on Monday", "two days ago", "over the weekend", "last night"),
    "place": ("at the supermarket", "on the train", "in a restaurant", "at the airport", "at the station", "abroad"),
    "amount": ("20 pounds", "50 euros", "$120", "300", "a few hundred", "15.99", "1,000 euros"),
    "person": ("my landlord", "my sister", "a friend", "my mother", "the plumber", "a colleague"),
    "company": ("the gym", "a streaming service", "my phone company", "an online shop", "the insurer", "some web site"),
    "country": ("Spain", "the US", "Poland", "Japan", "Switzerland", "Turkey"),
}

TYPOS = 0.45  # of the texts have one to three


def split(
    rows: int = ROWS, held_out: int = HELD_OUT, seed: int = 0
) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Write training and held-out texts; no text is in both, and a quarter of the held-out wordings are new.

    Parameters
    ----------
    rows, held_out : int
        Texts of each class; 100 and 30 by default, which makes 2,400 and 720.
    seed : int
        Fixes them.

    Returns
    -------
    tuple of list of dict
        Rows with ``text`` and ``label``, in random order.
    """
    draw = random.Random(seed)
    made: dict[str, None] = {}
    train: list[dict[str, str]] = []
    test: list[dict[str, str]] = []
    for label, text in INTENTS.items():
        wordings = [line.strip() for line in text.strip().splitlines()]
        for table, count in ((train, rows), (test, held_out)):
            while count:
                new = table is test and draw.random() < 0.25
                said = _say(label, wordings[-NEW:] if new else wordings[:-NEW], draw)
                if said not in made:
                    made[said] = None
                    table.append({"text": said, "label": label})
                    count -= 1
    draw.shuffle(train)
    draw.shuffle(test)
    return train, test


def _say(label: str, wordings: list[str], draw: random.Random) -> str:
    alike = [phrase for pair, phrases in SHARED.items() if label in pair for phrase in phrases]
    core = draw.choice(alike if alike and draw.random() < ALIKE else wordings)
    core = core.format(**{slot: draw.choice(values) for slot, values in SLOTS.items()})
    said = draw.choice(OPENERS) + core + draw.choice(CLOSERS)
    if draw.random() < REMARKED:
        remark = draw.choice(REMARKS)
        said = f"{remark}. {said}" if draw.random() < 0.5 else f"{said.rstrip('.')}. {remark}"
    if draw.random() < 0.5:
        said = said.lower()
    if draw.random() < TYPOS:
        for _ in range(draw.randint(1, 3)):
            said = _misspell(said, draw)
    return said


def _misspell(text: str, draw: random.Random) -> str:
    """Leave out, double or swap one letter."""
    at = draw.choice([place for place in range(len(text) - 1) if text[place : place + 2].isalpha()])
    kind = draw.randrange(3)
    if kind == 0:
        return text[:at] + text[at + 1 :]
    if kind == 1:
        return text[:at] + text[at] + text[at:]
    return text[:at] + text[at + 1] + text[at] + text[at + 2 :]


if __name__ == "__main__":
    for name, table in zip(sys.argv[1:3], split(), strict=True):
        Path(name).write_text("".join(json.dumps(row) + "\n" for row in table), encoding="utf-8")
