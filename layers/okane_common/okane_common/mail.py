"""The mails that OKANE writes: plain and short. A code is the only six-digit number in its text."""

from okane_common import aws, settings

SENDER = settings.text("MAIL_FROM")

NOT_YOU = 'If it was not you, set a new password now ("forgot password"): that ends every session.\n'


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


def send_reset_code(to: str, code: str, minutes: int) -> None:
    """Mail the code that sets a new password. Raises aws.AwsError."""
    aws.send_email(
        SENDER,
        to,
        "Your OKANE code for a new password",
        f"Your code is {code}. It is valid for {minutes} minutes and can be used once.\n\n"
        "Nobody from OKANE will ask you for it. If you did not want a new password, ignore this mail: nothing has changed.\n",
    )


def send_no_account(to: str) -> None:
    """Tell whoever asked for a new password that this address has no account. Raises aws.AwsError."""
    aws.send_email(
        SENDER,
        to,
        "There is no OKANE account with this address",
        "Somebody, perhaps you, asked for a new password for this address. It has no account: perhaps you signed up with\n"
        "another one.\n\nIf it was not you, there is nothing to do.\n",
    )


def send_password_changed(to: str) -> None:
    """Tell the owner that the password is another one now. Raises aws.AwsError."""
    aws.send_email(
        SENDER,
        to,
        "Your OKANE password was changed",
        f"The password of your account was changed. Whoever was signed in elsewhere is not any more.\n\n{NOT_YOU}",
    )


def send_session_reused(to: str) -> None:
    """Tell the owner that a session's token was used a second time. Raises aws.AwsError."""
    aws.send_email(
        SENDER,
        to,
        "One of your OKANE sessions was ended",
        "A token of one of your sessions was used a second time, as it is when somebody has copied it. That session has\n"
        f"ended; sign in again.\n\n{NOT_YOU}",
    )


def send_identity_linked(to: str) -> None:
    """Tell the owner that their Google account opens theirs from now on. Raises aws.AwsError."""
    aws.send_email(
        SENDER,
        to,
        "A new way to sign in to OKANE",
        f"Your account can now be signed in to with the Google account of this address, too.\n\n{NOT_YOU}",
    )
