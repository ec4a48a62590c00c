"""stub"""
async def grade(*a, **k): raise NotImplementedError
async def calibration(*a, **k): raise NotImplementedError
