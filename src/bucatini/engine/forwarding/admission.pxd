# Compiled as it is: asked for each connection of a published port.
