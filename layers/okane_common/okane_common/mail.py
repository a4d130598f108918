"""The mails that OKANE writes: plain and short. A code is the only six-digit number in its text."""

from okane_common import aws, settings

SENDER = settings.text("MAIL_FROM")


def send_code(to: str, code: str, minutes: int) -> None:
    """Mail the code that proves an address. Raises aws.AwsError."""
    aws.send_email(
        SENDER,
        to,
        "Your OKANE code",
        f"Your code is {code}. It is valid for {minutes} minutes and can be used once.\n\n"
        "Enter it only if you have just signed up yourself: it belongs to the password that was chosen then. Every sign-up\n"
        "has a code of its own. If you did not sign up, ignore this mail.\n",
    )


def send_already_registered(to: str) -> None:
    """Tell the owner of an account that somebody tried to sign up with their address. Raises aws.AwsError."""
    aws.send_email(
        SENDER,
        to,
        "You already have an OKANE account",
        "Somebody, perhaps you, tried to sign up with this address. It has an account already: sign in instead.\n\n"
        "If it was not you, there is nothing to do: nobody has got in.\n",
    )
