"""The person finder: a small hourglass that says where people are (Zhou et al. 2019, Objects as Points)."""
