"""Accuracy against epsilon, to choose an epsilon by: on a stand-in for free, or on people, charged.

`grid` makes the plans, `stand_in` the people who are nobody's data, `points` trains, `report`
tells. No model of a sweep is kept: it goes with the process.
"""
