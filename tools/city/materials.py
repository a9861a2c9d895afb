"""Blender materials. Three dials (wet, snow, night) turn a summer day into the rest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import bpy

from .textures import TILES


@dataclass(frozen=True)
class Surface:
    """How one material looks when dry, by day, in summer."""

    tile: str = ""
    roughness: float = 0.7
    bump: float = 0.0
    metallic: float = 0.0
    coat: float = 0.0
    snow: float = 1.0  # how much of a level surface snow covers
    wet: float = 0.5  # how much rain darkens and polishes it
    emission: float = 0.0
    night_emission: float = 0.0


SURFACES: dict[str, Surface] = {
    "plaster": Surface("plaster", 0.85),
    "brick": Surface("brick", 0.85, 0.6),
    "ashlar": Surface("ashlar", 0.75, 0.7),
    "cladding": Surface("cladding", 0.55, 0.35),
    "concrete": Surface("concrete", 0.8),
    "asphalt": Surface("asphalt", 0.85, snow=0.72, wet=1.0),
    "slabs": Surface("slabs", 0.8, 0.4, snow=0.92, wet=0.9),
    "setts": Surface("setts", 0.75, 0.8, snow=0.6, wet=1.0),
    "seam": Surface("seam", 0.45, 0.5),
    "gravel": Surface("asphalt", 0.9),
    "grass": Surface("grass", 0.9, 0.8),
    "water": Surface("", 0.04, snow=1.0),
    "marking": Surface("asphalt", 0.6, snow=0.8, wet=0.9),
    "steel": Surface("", 0.25, metallic=0.9, snow=0.1),
    "paint": Surface("", 0.45, wet=0.2),
    "metal": Surface("", 0.45, wet=0.2),
    "cloth": Surface("plaster", 0.9),
    "fabric": Surface("", 0.9, snow=0.15, wet=0.2),
    "rubber": Surface("", 0.7, snow=0.0),
    "bark": Surface("", 0.9, snow=0.9),
    "leaf": Surface("", 0.55, snow=0.8),
    "carpaint": Surface("", 0.35, metallic=0.15, coat=0.9, snow=0.55),
    "carglass": Surface("", 0.03, coat=1.0, snow=0.5),
    "headlight": Surface("", 0.1, night_emission=14.0, snow=0.0),
    "taillight": Surface("", 0.2, night_emission=3.0, snow=0.0),
    "lamp": Surface("", 0.5, night_emission=60.0, snow=0.0),
    "lampdim": Surface("", 0.3, emission=1.2, snow=0.0),
}


DIALS = ("wet", "snow", "night", "haze", "red", "green", "blue")
"""Rain, snow and darkness from 0 to 1; how dense the haze is, and its linear colour."""
_HAZE_LENGTH = 130.0  # metres over which haze hides two thirds


class MaterialSet:
    """Makes each material once and keeps hold of its dials."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self.dials: dict[str, list[bpy.types.NodeSocket]] = {key: [] for key in DIALS}
        self.made: dict[str, bpy.types.Material] = {}

    def get(self, name: str) -> bpy.types.Material:
        """The material of that name."""
        if name not in self.made:
            makers = {"glass": self._glass, "shopglass": self._glass, "sign": self._sign}
            self.made[name] = makers.get(name, self._surface)(name)
        return self.made[name]

    def set_dials(self, **values: float) -> None:
        """Turns all materials to a weather and an hour; names and ranges as in `DIALS`."""
        for key, value in values.items():
            for socket in self.dials[key]:
                if socket.default_value != value:
                    socket.default_value = value

    def _new(self, name: str) -> tuple[bpy.types.Material, bpy.types.NodeTree]:
        material = bpy.data.materials.new(name)
        material.use_nodes = True
        material.node_tree.nodes.clear()
        material.cycles.emission_sampling = "NONE"
        return material, material.node_tree

    def _dial(self, tree: bpy.types.NodeTree, key: str) -> bpy.types.NodeSocket:
        node = tree.nodes.new("ShaderNodeValue")
        self.dials[key].append(node.outputs[0])
        node.outputs[0].default_value = 0.0
        return node.outputs[0]

    def _image(self, tree: bpy.types.NodeTree, file: str, data: bool) -> bpy.types.Node:
        node = tree.nodes.new("ShaderNodeTexImage")
        node.image = bpy.data.images.load(str(self.cache / file), check_existing=True)
        if data:
            node.image.colorspace_settings.name = "Non-Color"
        return node

    @staticmethod
    def _math(
        tree: bpy.types.NodeTree, op: str, a: object, b: object = 0.5
    ) -> bpy.types.NodeSocket:
        node = tree.nodes.new("ShaderNodeMath")
        node.operation = op
        node.use_clamp = op != "MULTIPLY_ADD"
        for socket, value in zip(node.inputs[:2], (a, b), strict=True):
            if isinstance(value, (int, float)):
                socket.default_value = value
            else:
                tree.links.new(value, socket)
        return node.outputs[0]

    @staticmethod
    def _mix(
        tree: bpy.types.NodeTree, factor: object, a: object, b: object, blend: str = "MIX"
    ) -> bpy.types.NodeSocket:
        node = tree.nodes.new("ShaderNodeMix")
        node.data_type = "RGBA"
        node.blend_type = blend
        for socket, value in ((node.inputs[0], factor), (node.inputs[6], a), (node.inputs[7], b)):
            if isinstance(value, (int, float)):
                socket.default_value = value
            elif isinstance(value, tuple):
                socket.default_value = (*value, 1.0)
            else:
                tree.links.new(value, socket)
        return node.outputs[2]

    def _surface(self, name: str) -> bpy.types.Material:
        s = SURFACES[name]
        material, tree = self._new(name)
        nodes, links = tree.nodes, tree.links
        out = nodes.new("ShaderNodeOutputMaterial")
        # A plain diffuse lobe renders several times faster than the principled one, and the
        # facades and pavements that fill the picture need no more.
        matt_only = not (s.metallic or s.coat or s.emission or s.night_emission or not s.wet)
        matt_only = matt_only and s.roughness > 0.3
        kind = "ShaderNodeBsdfDiffuse" if matt_only else "ShaderNodeBsdfPrincipled"
        bsdf = nodes.new(kind)
        tint = nodes.new("ShaderNodeAttribute")
        tint.attribute_name = "tint"
        colour: bpy.types.NodeSocket = tint.outputs["Color"]
        grain = None
        if s.tile:
            uv = nodes.new("ShaderNodeUVMap")
            scale = nodes.new("ShaderNodeVectorMath")
            scale.operation = "SCALE"
            scale.inputs["Scale"].default_value = 1.0 / TILES[s.tile][0]
            links.new(uv.outputs[0], scale.inputs[0])
            image = self._image(tree, f"{s.tile}.png", True)
            links.new(scale.outputs[0], image.inputs[0])
            grain = image.outputs[0]
            double = nodes.new("ShaderNodeVectorMath")
            double.operation = "SCALE"
            double.inputs["Scale"].default_value = 2.0
            links.new(grain, double.inputs[0])
            colour = self._mix(tree, 1.0, colour, double.outputs[0], "MULTIPLY")
            # The same picture at a large scale breaks up the repetition and looks like weather.
            far = nodes.new("ShaderNodeVectorMath")
            far.operation = "SCALE"
            far.inputs["Scale"].default_value = 0.031
            links.new(uv.outputs[0], far.inputs[0])
            stain = self._image(tree, "plaster.png", True)
            links.new(far.outputs[0], stain.inputs[0])
            bright = nodes.new("ShaderNodeVectorMath")
            bright.operation = "SCALE"
            bright.inputs["Scale"].default_value = 2.0
            links.new(stain.outputs[0], bright.inputs[0])
            colour = self._mix(tree, 0.45, colour, bright.outputs[0], "MULTIPLY")
            if s.bump:
                height = self._image(tree, f"{s.tile}_h.png", True)
                links.new(scale.outputs[0], height.inputs[0])
                bump = nodes.new("ShaderNodeBump")
                bump.inputs["Strength"].default_value = s.bump
                bump.inputs["Distance"].default_value = 0.02
                links.new(height.outputs[0], bump.inputs["Height"])
                links.new(bump.outputs[0], bsdf.inputs["Normal"])
            grain = stain.outputs[0]
        wet = self._math(tree, "MULTIPLY", self._dial(tree, "wet"), s.wet)
        colour = self._mix(tree, self._math(tree, "MULTIPLY", wet, 0.55), colour, (0, 0, 0))
        rough: object = s.roughness
        dry = nodes.new("ShaderNodeMix")
        links.new(wet, dry.inputs[0])
        dry.inputs[2].default_value = s.roughness
        dry.inputs[3].default_value = 0.12 if s.wet >= 0.9 else s.roughness * 0.6
        if grain is not None and s.wet >= 0.9:
            puddle = nodes.new("ShaderNodeMapRange")
            puddle.inputs[1].default_value, puddle.inputs[2].default_value = 0.46, 0.53
            puddle.inputs[3].default_value, puddle.inputs[4].default_value = 0.07, 0.42
            links.new(grain, puddle.inputs[0])
            links.new(puddle.outputs[0], dry.inputs[3])
        rough = dry.outputs[0]
        if s.snow > 0:
            geometry = nodes.new("ShaderNodeNewGeometry")
            split = nodes.new("ShaderNodeSeparateXYZ")
            links.new(geometry.outputs["Normal"], split.inputs[0])
            slope = nodes.new("ShaderNodeMapRange")
            slope.inputs[1].default_value, slope.inputs[2].default_value = 0.25, 0.75
            slope.inputs[4].default_value = s.snow
            links.new(split.outputs[2], slope.inputs[0])
            cover = self._math(tree, "MULTIPLY", slope.outputs[0], self._dial(tree, "snow"))
            if grain is not None and s.snow < 0.95:
                trodden = nodes.new("ShaderNodeMapRange")
                trodden.inputs[1].default_value, trodden.inputs[2].default_value = 0.44, 0.56
                trodden.inputs[3].default_value = 0.55
                links.new(grain, trodden.inputs[0])
                cover = self._math(tree, "MULTIPLY", cover, trodden.outputs[0])
            colour = self._mix(tree, cover, colour, (0.80, 0.83, 0.88))
            matt = nodes.new("ShaderNodeMix")
            links.new(cover, matt.inputs[0])
            links.new(rough, matt.inputs[2])
            matt.inputs[3].default_value = 0.8
            rough = matt.outputs[0]
        if matt_only:
            links.new(colour, bsdf.inputs["Color"])
            shader = bsdf.outputs[0]
            if s.wet >= 0.9:
                shader = self._film(tree, shader, wet, rough)
            if name == "leaf":
                shader = self._translucent(tree, shader, colour)
            self._close(tree, out, shader)
            return material
        links.new(colour, bsdf.inputs["Base Color"])
        links.new(rough, bsdf.inputs["Roughness"])
        bsdf.inputs["Metallic"].default_value = s.metallic
        bsdf.inputs["Coat Weight"].default_value = s.coat
        if s.emission or s.night_emission:
            links.new(tint.outputs["Color"], bsdf.inputs["Emission Color"])
            glow = self._math(tree, "MULTIPLY", self._dial(tree, "night"), 1.0)
            add = nodes.new("ShaderNodeMath")
            add.operation = "MULTIPLY_ADD"
            links.new(glow, add.inputs[0])
            add.inputs[1].default_value = s.night_emission
            add.inputs[2].default_value = s.emission
            links.new(add.outputs[0], bsdf.inputs["Emission Strength"])
        if name == "water":
            waves = self._image(tree, "plaster_h.png", True)
            where = nodes.new("ShaderNodeUVMap")
            links.new(where.outputs[0], waves.inputs[0])
            bump = nodes.new("ShaderNodeBump")
            bump.inputs["Strength"].default_value = 0.3
            links.new(waves.outputs[0], bump.inputs["Height"])
            links.new(bump.outputs[0], bsdf.inputs["Normal"])
        self._close(tree, out, bsdf.outputs[0])
        return material

    def _film(
        self,
        tree: bpy.types.NodeTree,
        shader: bpy.types.NodeSocket,
        wet: bpy.types.NodeSocket,
        rough: object,
    ) -> bpy.types.NodeSocket:
        """A film of water over a matt surface; it costs nothing while the dial is at zero."""
        gloss = tree.nodes.new("ShaderNodeBsdfGlossy")
        tree.links.new(rough, gloss.inputs["Roughness"])
        fresnel = tree.nodes.new("ShaderNodeFresnel")
        fresnel.inputs["IOR"].default_value = 1.38
        factor = self._math(tree, "MULTIPLY", wet, fresnel.outputs[0])
        return self._blend(tree, factor, shader, gloss.outputs[0])

    def _translucent(
        self, tree: bpy.types.NodeTree, shader: bpy.types.NodeSocket, colour: bpy.types.NodeSocket
    ) -> bpy.types.NodeSocket:
        """Leaves let the sun through."""
        through = tree.nodes.new("ShaderNodeBsdfTranslucent")
        tree.links.new(colour, through.inputs[0])
        return self._blend(tree, 0.4, shader, through.outputs[0])

    @staticmethod
    def _blend(
        tree: bpy.types.NodeTree, factor: object, a: bpy.types.NodeSocket, b: bpy.types.NodeSocket
    ) -> bpy.types.NodeSocket:
        mix = tree.nodes.new("ShaderNodeMixShader")
        if isinstance(factor, float):
            mix.inputs[0].default_value = factor
        else:
            tree.links.new(factor, mix.inputs[0])
        tree.links.new(a, mix.inputs[1])
        tree.links.new(b, mix.inputs[2])
        return mix.outputs[0]

    def _close(
        self, tree: bpy.types.NodeTree, out: bpy.types.Node, shader: bpy.types.NodeSocket
    ) -> None:
        """Ends a material: what the camera sees far off fades into the haze of the day.

        A fog volume would cost many times more than this blend by distance.
        """
        camera = tree.nodes.new("ShaderNodeCameraData")
        ray = tree.nodes.new("ShaderNodeLightPath")
        fade = self._math(tree, "MULTIPLY", camera.outputs["View Distance"], -1.0 / _HAZE_LENGTH)
        tree.nodes[-1].use_clamp = False
        clear = tree.nodes.new("ShaderNodeMath")
        clear.operation = "EXPONENT"
        tree.links.new(fade, clear.inputs[0])
        thick = self._math(tree, "SUBTRACT", 1.0, clear.outputs[0])
        thick = self._math(tree, "MULTIPLY", thick, self._dial(tree, "haze"))
        thick = self._math(tree, "MULTIPLY", thick, ray.outputs["Is Camera Ray"])
        air = tree.nodes.new("ShaderNodeEmission")
        colour = tree.nodes.new("ShaderNodeCombineColor")
        for key, socket in zip(("red", "green", "blue"), colour.inputs, strict=True):
            tree.links.new(self._dial(tree, key), socket)
        tree.links.new(colour.outputs[0], air.inputs[0])
        tree.links.new(self._blend(tree, thick, shader, air.outputs[0]), out.inputs[0])

    def _glass(self, name: str) -> bpy.types.Material:
        material, tree = self._new(name)
        nodes, links = tree.nodes, tree.links
        out = nodes.new("ShaderNodeOutputMaterial")
        uv = nodes.new("ShaderNodeUVMap")
        room = self._image(tree, "rooms.png" if name == "glass" else "shops.png", False)
        links.new(uv.outputs[0], room.inputs[0])
        tint = nodes.new("ShaderNodeAttribute")
        tint.attribute_name = "tint"
        matt = nodes.new("ShaderNodeBsdfDiffuse")
        links.new(room.outputs[0], matt.inputs["Color"])
        shine = nodes.new("ShaderNodeEmission")
        inside = nodes.new("ShaderNodeAddShader")
        links.new(matt.outputs[0], inside.inputs[0])
        links.new(shine.outputs[0], inside.inputs[1])
        flood = self._mix(
            tree, 0.22 if name == "glass" else 0.08, room.outputs[0], (0.9, 0.85, 0.75)
        )
        glow = self._mix(tree, 1.0, flood, tint.outputs["Color"], "MULTIPLY")
        links.new(glow, shine.inputs["Color"])
        lit = self._math(tree, "MULTIPLY", self._dial(tree, "night"), tint.outputs["Alpha"])
        power = nodes.new("ShaderNodeMath")
        power.operation = "MULTIPLY_ADD"
        links.new(lit, power.inputs[0])
        power.inputs[1].default_value = 2.6 if name == "glass" else 3.4
        power.inputs[2].default_value = 0.0 if name == "glass" else 0.35
        links.new(power.outputs[0], shine.inputs["Strength"])
        mirror = nodes.new("ShaderNodeBsdfGlossy")
        mirror.inputs["Roughness"].default_value = 0.02
        mirror.inputs["Color"].default_value = (0.9, 0.95, 1.0, 1.0)
        fresnel = nodes.new("ShaderNodeFresnel")
        fresnel.inputs["IOR"].default_value = 2.1 if name == "glass" else 1.6
        pane = self._blend(tree, fresnel.outputs[0], inside.outputs[0], mirror.outputs[0])
        self._close(tree, out, pane)
        return material

    def _sign(self, name: str) -> bpy.types.Material:
        material, tree = self._new(name)
        nodes, links = tree.nodes, tree.links
        out = nodes.new("ShaderNodeOutputMaterial")
        uv = nodes.new("ShaderNodeUVMap")
        image = self._image(tree, "signs.png", False)
        links.new(uv.outputs[0], image.inputs[0])
        matt = nodes.new("ShaderNodeBsdfDiffuse")
        shine = nodes.new("ShaderNodeEmission")
        add = nodes.new("ShaderNodeAddShader")
        links.new(image.outputs[0], matt.inputs["Color"])
        links.new(image.outputs[0], shine.inputs["Color"])
        links.new(self._dial(tree, "night"), shine.inputs["Strength"])
        links.new(matt.outputs[0], add.inputs[0])
        links.new(shine.outputs[0], add.inputs[1])
        self._close(tree, out, add.outputs[0])
        return material
