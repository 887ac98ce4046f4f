# The class stays a Python class, as asyncio wants a `selectors.BaseSelector`; its code is compiled all the same.
