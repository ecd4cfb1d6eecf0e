"""The drill: one run under eight faults, beside the same run left alone: what do they cost, what do they change?"""
