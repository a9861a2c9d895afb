"""Hands the gathered meshes to Blender and renders single captures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import bpy
import numpy as np
import shapely
from shapely.geometry import Point, Polygon
from shapely.strtree import STRtree

from . import props
from .conditions import CONDITIONS, Condition
from .facades import FacadeBuilder
from .geo import sun_position
from .materials import MaterialSet
from .meshes import MeshBuilder
from .osm import load_city
from .streets import KERB, TOWN_SEED, Ground, build_ground, is_driven, make_ground, park_trees
from .textures import prepare, sign_names, sky_image, write_signs
from .traffic import Placed, Traffic

PAINTS = (
    (0.02, 0.02, 0.022),
    (0.55, 0.55, 0.56),
    (0.80, 0.80, 0.79),
    (0.12, 0.125, 0.13),
    (0.30, 0.02, 0.02),
    (0.03, 0.07, 0.20),
    (0.28, 0.29, 0.30),
    (0.05, 0.10, 0.09),
)
_LAMP_REACH = 70.0
_STAND_TOLERANCE = 0.1  # metres
_SKIES = 3


@dataclass(frozen=True)
class Shot:
    """Everything that decides one picture."""

    x: float
    y: float
    height: float
    heading: float
    pitch: float
    roll: float
    fov: float
    width: int
    rows: int
    condition: str
    moment: int
    seed: int
    samples: int = 16


def to_object(
    builder: MeshBuilder, name: str, materials: MaterialSet, weld: bool
) -> bpy.types.Object:
    """Makes one Blender object of all the faces in a builder."""
    corners: list[np.ndarray] = []
    uvs: list[np.ndarray] = []
    tints: list[np.ndarray] = []
    sizes: list[np.ndarray] = []
    slots: list[np.ndarray] = []
    mesh = bpy.data.meshes.new(name)
    for slot, material in enumerate(sorted(builder.faces)):
        mesh.materials.append(materials.get(material))
        for f in builder.merged(material):
            n, k = f.points.shape[:2]
            corners.append(f.points.reshape(-1, 3))
            uvs.append(f.uv.reshape(-1, 2))
            tints.append(f.tint)
            sizes.append(np.full(n, k, np.int32))
            slots.append(np.full(n, slot, np.int32))
    points = np.concatenate(corners)
    if weld:
        keys, index = np.unique(np.round(points, 4), axis=0, return_inverse=True)
        points, index = keys.astype(np.float32), index.reshape(-1).astype(np.int32)
    else:
        index = np.arange(len(points), dtype=np.int32)
    size = np.concatenate(sizes)
    mesh.vertices.add(len(points))
    mesh.vertices.foreach_set("co", points.ravel())
    mesh.loops.add(len(index))
    mesh.loops.foreach_set("vertex_index", index)
    mesh.polygons.add(len(size))
    mesh.polygons.foreach_set("loop_start", (np.cumsum(size) - size).astype(np.int32))
    mesh.polygons.foreach_set("material_index", np.concatenate(slots))
    layer = mesh.uv_layers.new(name="uv")
    layer.data.foreach_set("uv", np.concatenate(uvs).ravel())
    tint = mesh.attributes.new("tint", "FLOAT_COLOR", "FACE")
    tint.data.foreach_set("color", np.concatenate(tints).ravel())
    mesh.update(calc_edges=True)
    if weld:
        mesh.polygons.foreach_set("use_smooth", np.ones(len(size), bool))
        mesh.set_sharp_from_angle(angle=math.radians(38))
    return bpy.data.objects.new(name, mesh)


class Stage:
    """The city in Blender, with a camera, a sun, a sky and a cast of movable things."""

    def __init__(
        self,
        cache: Path,
        seed: int,
        within: Polygon | None = None,
        near: Polygon | None = None,
        threads: int = 1,
    ) -> None:
        """Builds the scene.

        Args:
            cache: Folder of the textures.
            seed: Seed of the facades.
            within: What to build; None for the whole extract.
            near: Where to build in full detail; None for everywhere.
            threads: Render threads.
        """
        self.cache = cache
        self.city = load_city()
        self.ground: Ground = make_ground(self.city)
        self.traffic = Traffic(self.city, self.ground)
        bpy.ops.wm.read_factory_settings(use_empty=True)
        self.scene = bpy.context.scene
        self._settings(threads)
        prepare(cache)
        signs = write_signs(cache / "signs.png", sign_names(self.city))
        self.materials = MaterialSet(cache)
        self.prop_meshes: dict[str, bpy.types.Mesh] = {}
        self.pool: dict[str, list[bpy.types.Object]] = {}
        static = MeshBuilder()
        FacadeBuilder(self.city, seed, static, signs).build(within, near)
        build_ground(static, self.city, self.ground)
        self.faces = static.count()
        self._link(to_object(static, "city", self.materials, False))
        self._fixed_props(within)
        self._light()
        self.current = ""

    def _link(self, obj: bpy.types.Object) -> bpy.types.Object:
        self.scene.collection.objects.link(obj)
        return obj

    def _settings(self, threads: int) -> None:
        s = self.scene
        s.render.engine = "CYCLES"
        s.render.threads_mode = "FIXED"
        s.render.threads = threads
        s.render.use_persistent_data = True
        s.render.image_settings.file_format = "PNG"
        s.render.image_settings.compression = 5
        s.view_settings.view_transform = "AgX"
        s.view_settings.look = "AgX - Medium High Contrast"
        c = s.cycles
        c.device = "CPU"
        c.use_denoising = True
        c.denoiser = "OPENIMAGEDENOISE"
        c.use_adaptive_sampling = False
        c.max_bounces, c.diffuse_bounces, c.glossy_bounces = 3, 2, 2
        c.transmission_bounces = c.transparent_max_bounces = 1
        c.sample_clamp_indirect = 4.0
        c.sample_clamp_direct = 0.0
        c.caustics_reflective = c.caustics_refractive = False
        c.denoising_prefilter = "FAST"
        c.denoising_quality = "BALANCED"
        # After the first bounce the sky's ambient occlusion stands in for path tracing: a
        # third of the time for a picture that the eye cannot tell apart.
        c.use_fast_gi, c.fast_gi_method, c.ao_bounces_render = True, "REPLACE", 1
        c.blur_glossy = 0.5

    def _light(self) -> None:
        sun = bpy.data.lights.new("sun", "SUN")
        sun.angle = math.radians(0.6)
        self.sun = self._link(bpy.data.objects.new("sun", sun))
        camera = bpy.data.cameras.new("camera")
        camera.clip_start, camera.clip_end = 0.1, 3000.0
        self.camera = self._link(bpy.data.objects.new("camera", camera))
        self.scene.camera = self.camera
        world = bpy.data.worlds.new("sky")
        self.scene.world = world
        # "Automatic" measures the sky at 4096 pixels, two seconds for every change of weather.
        world.cycles.sampling_method, world.cycles.sample_map_resolution = "MANUAL", 256
        world.use_nodes = True
        tree = world.node_tree
        tree.nodes.clear()
        out = tree.nodes.new("ShaderNodeOutputWorld")
        back = tree.nodes.new("ShaderNodeBackground")
        self.sky = tree.nodes.new("ShaderNodeTexEnvironment")
        tree.links.new(self.sky.outputs[0], back.inputs[0])
        tree.links.new(back.outputs[0], out.inputs[0])
        self.background = back
        world.light_settings.distance = 10.0
        light = bpy.data.lights.new("lamp", "POINT")
        light.energy, light.shadow_soft_size = 900.0, 0.25
        light.color = (1.0, 0.72, 0.42)
        self.lights = [self._link(bpy.data.objects.new("lamp", light)) for _ in self.lamp_spots]
        for obj, (x, y, z) in zip(self.lights, self.lamp_spots, strict=True):
            obj.location = (x, y, z)

    def _prop(self, kind: str) -> bpy.types.Mesh:
        if kind not in self.prop_meshes:
            name, *rest = kind.split(":")
            if name == "car":
                builder = props.car(rest[0], PAINTS[int(rest[1])])
            elif name == "person":
                builder = props.person(int(rest[0]))
            elif name == "tree":
                builder = props.tree(int(rest[0]), rest[1] == "leaves")
            else:
                builder = {
                    "tram": props.tram,
                    "lamp": props.lamp,
                    "bench": props.bench,
                    "bin": props.litter_bin,
                    "signal": props.traffic_signal,
                }[name]()
            weld = name != "tree"
            self.prop_meshes[kind] = to_object(builder, kind, self.materials, weld).data
        return self.prop_meshes[kind]

    def _put(
        self, kind: str, x: float, y: float, z: float, yaw: float, scale: float = 1.0
    ) -> bpy.types.Object:
        obj = self._link(bpy.data.objects.new(kind, self._prop(kind)))
        obj.location, obj.rotation_euler = (x, y, z), (0.0, 0.0, yaw)
        obj.scale = (scale, scale, scale)
        return obj

    def _fixed_props(self, within: Polygon | None) -> None:
        lines = [s.line for s in self.city.streets if is_driven(s)]
        tree = STRtree(lines)

        def facing(x: float, y: float) -> float:
            line = lines[int(tree.nearest(Point(x, y)))]
            p = line.interpolate(line.project(Point(x, y)))
            return math.atan2(p.y - y, p.x - x)

        built, road = self.ground.built.buffer(0.6), self.ground.road
        shapely.prepare(built)
        self.trees: list[tuple[bpy.types.Object, int]] = []
        self.lamp_spots: list[tuple[float, float, float]] = []
        keep = [
            (kind, x, y)
            for kind, spots in (
                ("tree", park_trees(self.city, self.ground, TOWN_SEED)),
                ("lamp", self.city.lamps),
                ("bench", self.city.benches),
                ("bin", self.city.bins),
                ("signal", self.city.signals),
            )
            for x, y in spots
        ]
        lamps = [(x, y) for kind, x, y in keep if kind == "lamp"]
        for kind, x, y in keep:
            at = Point(x, y)
            if within is not None and not within.contains(at):
                continue
            if built.contains(at) or (
                kind not in ("lamp",) and road.contains(at) and kind != "signal"
            ):
                continue
            if kind == "tree":
                # Seeded by place, so that a tree looks the same whatever part of town is built.
                rng = np.random.default_rng([int(x * 10) + 99999, int(y * 10) + 99999])
                variant = int(rng.integers(4))
                obj = self._put(
                    f"tree:{variant}:leaves",
                    x,
                    y,
                    KERB,
                    rng.uniform(0, 6.28),
                    rng.uniform(0.75, 1.25),
                )
                self.trees.append((obj, variant))
            elif kind == "lamp":
                yaw = facing(x, y)
                if not road.contains(at):
                    self._put("lamp", x, y, KERB, yaw)
                self.lamp_spots.append((x + 1.1 * math.cos(yaw), y + 1.1 * math.sin(yaw), 7.3))
            else:
                yaw = facing(x, y)
                if kind == "signal" and road.contains(at):
                    x, y = x - 4.5 * math.cos(yaw + 1.57), y - 4.5 * math.sin(yaw + 1.57)
                    if road.contains(Point(x, y)) or built.contains(Point(x, y)):
                        continue
                    yaw = facing(x, y) + math.pi / 2
                self._put(kind, x, y, KERB, yaw)
        for line in lines:
            for at in np.arange(8.0, line.length, 28.0):
                p = line.interpolate(at)
                if all(math.hypot(p.x - a, p.y - b) > 22 for a, b in lamps):
                    lamps.append((p.x, p.y))
                    if within is None or within.contains(p):
                        self.lamp_spots.append((p.x, p.y, 7.3))

    def _set_condition(self, c: Condition, moment: int, seed: int) -> None:
        key = f"{c.name}:{moment}:{seed % _SKIES}"
        if key == self.current:
            return
        self.current = key
        red, green, blue = c.air
        self.materials.set_dials(
            wet=c.wet, snow=c.snow, night=c.night, haze=c.haze, red=red, green=green, blue=blue
        )
        where = sun_position(c.moments[moment])
        direction = where.direction()
        moon = np.array([0.4, -0.5, 0.6]) if c.night > 0.5 else direction
        path = self.cache / f"sky_{c.name}_{moment}_{seed % _SKIES}.hdr"
        pixels = sky_image(
            moon / np.linalg.norm(moon), c.cover, float(c.night > 0.5), seed % _SKIES + 31 * moment
        )
        old = self.sky.image
        image = bpy.data.images.new(path.stem, pixels.shape[1], pixels.shape[0], float_buffer=True)
        rgba = np.ones((*pixels.shape[:2], 4), np.float32)
        rgba[..., :3] = pixels
        image.pixels.foreach_set(rgba.ravel())
        image.update()
        self.sky.image = image
        if old is not None:
            bpy.data.images.remove(old)
        self.background.inputs[1].default_value = 1.5 if c.night < 0.5 else 1.0
        e, a = math.radians(max(where.elevation, 2.0)), math.radians(where.azimuth)
        # A sun lamp shines along its local -z; tilt it by the zenith distance, then turn it.
        self.sun.rotation_euler = (math.pi / 2 - e, 0.0, math.pi - a)
        low = min(max(math.sin(e), 0.0) / 0.5, 1.0)
        self.sun.data.energy = c.sun * (0.55 + 0.45 * low)
        self.sun.data.color = (1.0, 0.62 + 0.33 * low, 0.36 + 0.52 * low)
        self.sun.hide_render = c.sun <= 0
        for obj, variant in self.trees:
            obj.data = self._prop(f"tree:{variant}:{'leaves' if c.leaves else 'bare'}")
        self.scene.view_settings.exposure = c.exposure
        self.scene.cycles.use_light_tree = c.night > 0.5

    def _populate(self, things: list[Placed]) -> None:
        used: dict[str, int] = {}
        for t in things:
            pool = self.pool.setdefault(t.kind, [])
            i = used.get(t.kind, 0)
            used[t.kind] = i + 1
            if i == len(pool):
                pool.append(self._put(t.kind, 0, 0, 0, 0))
            pool[i].location, pool[i].rotation_euler = (t.x, t.y, t.z), (0.0, 0.0, t.yaw)
        for kind, pool in self.pool.items():
            for obj in pool[used.get(kind, 0) :]:
                obj.location = (0.0, 0.0, -60.0)

    def render(self, shot: Shot, path: Path) -> None:
        """Renders one shot into `path` (PNG, before the camera's own defects are added)."""
        c = CONDITIONS[shot.condition]
        self._set_condition(c, shot.moment, shot.seed)
        crowd = c.crowd
        self._populate(self.traffic.draw(shot.x, shot.y, shot.heading, crowd, shot.seed))
        for obj, (x, y, _) in zip(self.lights, self.lamp_spots, strict=True):
            off = c.night < 0.5 or math.hypot(x - shot.x, y - shot.y) > _LAMP_REACH
            if obj.hide_render != off:
                obj.hide_render = off
        self.camera.location = (shot.x, shot.y, shot.height)
        pitch, yaw = math.radians(90 + shot.pitch), -math.radians(shot.heading)
        self.camera.rotation_mode = "XYZ"
        self.camera.rotation_euler = (pitch, math.radians(shot.roll), yaw)
        self.camera.data.sensor_fit = "HORIZONTAL"
        self.camera.data.angle = math.radians(shot.fov)
        r = self.scene.render
        r.resolution_x, r.resolution_y, r.resolution_percentage = shot.width, shot.rows, 100
        self.scene.cycles.samples = shot.samples
        self.scene.cycles.seed = shot.seed % 100000
        r.filepath = str(path)
        bpy.ops.render.render(write_still=True)
        # Blender's word for where it stood, not the plan's: the table gives the plan's to everyone.
        stood = self.camera.matrix_world.translation
        if math.dist(stood, (shot.x, shot.y, shot.height)) > _STAND_TOLERANCE:
            raise RuntimeError(f"{path.name} was rendered from {tuple(stood)}, not as planned")
