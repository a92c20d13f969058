"""Accuracy against epsilon, to choose an epsilon by: on a stand-in for free, or on people, charged.

`grid` makes the plans, `stand_in` people who were invented or are public, `points` trains, `report`
says. No model of a sweep is kept: it goes with the process.
"""
