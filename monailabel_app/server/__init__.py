"""What stands around MONAI Label's endpoints: who comes in, with how much, what is written down."""
