"""The peers' side of the measurement: run with the Python of .peers/, which has the peers' packages and none of DALP's."""
