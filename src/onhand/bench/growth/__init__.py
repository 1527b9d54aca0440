"""What a call costs as the business grows: stores of any size, and figures taken on them."""
