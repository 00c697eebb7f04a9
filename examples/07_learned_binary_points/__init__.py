"""Binary points learned while training, or chosen afterwards."""
