/* A Vulkan layer that records what the driver's shader compiler says about each compute pipeline.
 *
 * It turns on VK_KHR_pipeline_executable_properties behind the application's back (wgpu never asks for it), adds the
 * CAPTURE_STATISTICS flag to every compute pipeline, and appends one JSON object per pipeline to $VKSTATS_DIR/stats.jsonl.
 * Each shader module's SPIR-V goes to $VKSTATS_DIR/module-N.spv; with VKSTATS_IR=1 also the driver's IR and disassembly.
 * One instance and one device per process are assumed: it is a measuring tool for short-lived processes, nothing more.
 *
 *   gcc -O1 -shared -fPIC -I<mesa>/include offline_layer.c -o libvkstats.so
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <vulkan/vulkan.h>
#include <vulkan/vk_layer.h>

#define EXPORT __attribute__((visibility("default")))
#define MAX_MODULES 4096
#define NEXT_I(name) ((PFN_##name)next_gipa(instance, #name))
#define NEXT_D(name) ((PFN_##name)next_gdpa(device, #name))

static PFN_vkGetInstanceProcAddr next_gipa;
static PFN_vkGetDeviceProcAddr next_gdpa;
static VkInstance instance;
static VkDevice device;
static bool have_stats;
static VkShaderModule modules[MAX_MODULES];
static unsigned module_count, pipeline_count;

static FILE *open_out(const char *name, const char *mode)
{
   char path[4096];
   const char *dir = getenv("VKSTATS_DIR");
   snprintf(path, sizeof(path), "%s/%s", dir ? dir : ".", name);
   return fopen(path, mode);
}

static void *chain_find(const void *head, VkStructureType type, VkLayerFunction function)
{
   for (VkLayerInstanceCreateInfo *it = (void *)head; it; it = (void *)it->pNext)
      if (it->sType == type && it->function == function) return it;
   return NULL;
}

static VkResult create_instance(const VkInstanceCreateInfo *info, const VkAllocationCallbacks *alloc, VkInstance *out)
{
   VkLayerInstanceCreateInfo *link =
      chain_find(info->pNext, VK_STRUCTURE_TYPE_LOADER_INSTANCE_CREATE_INFO, VK_LAYER_LINK_INFO);
   if (!link) return VK_ERROR_INITIALIZATION_FAILED;
   next_gipa = link->u.pLayerInfo->pfnNextGetInstanceProcAddr;
   link->u.pLayerInfo = link->u.pLayerInfo->pNext;
   VkResult r = ((PFN_vkCreateInstance)next_gipa(NULL, "vkCreateInstance"))(info, alloc, out);
   if (r == VK_SUCCESS) instance = *out;
   return r;
}

static bool supports_stats(VkPhysicalDevice phys)
{
   uint32_t n = 0;
   PFN_vkEnumerateDeviceExtensionProperties list = NEXT_I(vkEnumerateDeviceExtensionProperties);
   list(phys, NULL, &n, NULL);
   VkExtensionProperties *props = calloc(n, sizeof(*props));
   list(phys, NULL, &n, props);
   bool found = false;
   for (uint32_t i = 0; i < n; i++)
      found |= !strcmp(props[i].extensionName, VK_KHR_PIPELINE_EXECUTABLE_PROPERTIES_EXTENSION_NAME);
   free(props);
   return found;
}

static VkResult create_device(VkPhysicalDevice phys, const VkDeviceCreateInfo *info, const VkAllocationCallbacks *alloc,
                              VkDevice *out)
{
   VkLayerDeviceCreateInfo *link =
      chain_find(info->pNext, VK_STRUCTURE_TYPE_LOADER_DEVICE_CREATE_INFO, VK_LAYER_LINK_INFO);
   if (!link) return VK_ERROR_INITIALIZATION_FAILED;
   PFN_vkGetInstanceProcAddr gipa = link->u.pLayerInfo->pfnNextGetInstanceProcAddr;
   next_gdpa = link->u.pLayerInfo->pfnNextGetDeviceProcAddr;
   link->u.pLayerInfo = link->u.pLayerInfo->pNext;

   VkDeviceCreateInfo mine = *info;
   VkPhysicalDevicePipelineExecutablePropertiesFeaturesKHR feature = {
      .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PIPELINE_EXECUTABLE_PROPERTIES_FEATURES_KHR,
      .pNext = (void *)info->pNext, .pipelineExecutableInfo = VK_TRUE};
   const char **names = calloc(info->enabledExtensionCount + 1, sizeof(*names));
   if (info->enabledExtensionCount)
      memcpy(names, info->ppEnabledExtensionNames, info->enabledExtensionCount * sizeof(*names));
   have_stats = supports_stats(phys);
   if (have_stats) {
      names[mine.enabledExtensionCount++] = VK_KHR_PIPELINE_EXECUTABLE_PROPERTIES_EXTENSION_NAME;
      mine.pNext = &feature;
   }
   mine.ppEnabledExtensionNames = names;
   VkResult r = ((PFN_vkCreateDevice)gipa(instance, "vkCreateDevice"))(phys, &mine, alloc, out);
   if (r == VK_SUCCESS) device = *out;
   free(names);
   return r;
}

static VkResult create_module(VkDevice dev, const VkShaderModuleCreateInfo *info, const VkAllocationCallbacks *alloc,
                              VkShaderModule *out)
{
   VkResult r = NEXT_D(vkCreateShaderModule)(dev, info, alloc, out);
   if (r != VK_SUCCESS || module_count == MAX_MODULES) return r;
   char name[32];
   snprintf(name, sizeof(name), "module-%u.spv", module_count);
   modules[module_count++] = *out;
   FILE *f = open_out(name, "wb");
   if (f) { fwrite(info->pCode, 1, info->codeSize, f); fclose(f); }
   return r;
}

static void print_value(FILE *f, const VkPipelineExecutableStatisticKHR *s)
{
   switch (s->format) {
   case VK_PIPELINE_EXECUTABLE_STATISTIC_FORMAT_BOOL32_KHR: fprintf(f, s->value.b32 ? "true" : "false"); break;
   case VK_PIPELINE_EXECUTABLE_STATISTIC_FORMAT_INT64_KHR: fprintf(f, "%lld", (long long)s->value.i64); break;
   case VK_PIPELINE_EXECUTABLE_STATISTIC_FORMAT_UINT64_KHR: fprintf(f, "%llu", (unsigned long long)s->value.u64); break;
   default: fprintf(f, "%.9g", s->value.f64); break;
   }
}

static void write_ir(unsigned pipeline, const VkPipelineExecutableInfoKHR *which)
{
   uint32_t n = 0;
   PFN_vkGetPipelineExecutableInternalRepresentationsKHR get =
      NEXT_D(vkGetPipelineExecutableInternalRepresentationsKHR);
   if (get(device, which, &n, NULL) != VK_SUCCESS || !n) return;
   VkPipelineExecutableInternalRepresentationKHR *ir = calloc(n, sizeof(*ir));
   for (uint32_t i = 0; i < n; i++) ir[i].sType = VK_STRUCTURE_TYPE_PIPELINE_EXECUTABLE_INTERNAL_REPRESENTATION_KHR;
   get(device, which, &n, ir);
   for (uint32_t i = 0; i < n; i++) ir[i].pData = calloc(1, ir[i].dataSize + 1);
   get(device, which, &n, ir);
   for (uint32_t i = 0; i < n; i++) {
      char name[64];
      snprintf(name, sizeof(name), "pipeline-%u.%u.%u.txt", pipeline, which->executableIndex, i);
      FILE *f = open_out(name, "w");
      if (f) { fprintf(f, "; %s: %s\n%s\n", ir[i].name, ir[i].description, (char *)ir[i].pData); fclose(f); }
      free(ir[i].pData);
   }
   free(ir);
}

static void record(VkPipeline pipeline, const VkComputePipelineCreateInfo *info)
{
   unsigned id = pipeline_count++;
   FILE *f = open_out("stats.jsonl", "a");
   if (!f) return;
   int module = -1;
   for (unsigned i = 0; i < module_count; i++)
      if (modules[i] == info->stage.module) module = (int)i;
   fprintf(f, "{\"pipeline\": %u, \"module\": %d, \"entry\": \"%s\", \"executables\": [", id, module, info->stage.pName);

   uint32_t n = 0;
   VkPipelineInfoKHR which = {.sType = VK_STRUCTURE_TYPE_PIPELINE_INFO_KHR, .pipeline = pipeline};
   VkPipelineExecutablePropertiesKHR *props = NULL;
   if (have_stats && NEXT_D(vkGetPipelineExecutablePropertiesKHR)(device, &which, &n, NULL) == VK_SUCCESS && n) {
      props = calloc(n, sizeof(*props));
      for (uint32_t i = 0; i < n; i++) props[i].sType = VK_STRUCTURE_TYPE_PIPELINE_EXECUTABLE_PROPERTIES_KHR;
      NEXT_D(vkGetPipelineExecutablePropertiesKHR)(device, &which, &n, props);
   }
   for (uint32_t i = 0; i < n; i++) {
      VkPipelineExecutableInfoKHR exe = {
         .sType = VK_STRUCTURE_TYPE_PIPELINE_EXECUTABLE_INFO_KHR, .pipeline = pipeline, .executableIndex = i};
      uint32_t m = 0;
      NEXT_D(vkGetPipelineExecutableStatisticsKHR)(device, &exe, &m, NULL);
      VkPipelineExecutableStatisticKHR *s = calloc(m ? m : 1, sizeof(*s));
      for (uint32_t k = 0; k < m; k++) s[k].sType = VK_STRUCTURE_TYPE_PIPELINE_EXECUTABLE_STATISTIC_KHR;
      NEXT_D(vkGetPipelineExecutableStatisticsKHR)(device, &exe, &m, s);
      fprintf(f, "%s{\"name\": \"%s\", \"subgroup_size\": %u, \"statistics\": {", i ? ", " : "", props[i].name,
              props[i].subgroupSize);
      for (uint32_t k = 0; k < m; k++) {
         fprintf(f, "%s\"%s\": ", k ? ", " : "", s[k].name);
         print_value(f, &s[k]);
      }
      fprintf(f, "}}");
      free(s);
      if (getenv("VKSTATS_IR")) write_ir(id, &exe);
   }
   fprintf(f, "]}\n");
   fclose(f);
   free(props);
}

static VkResult create_compute(VkDevice dev, VkPipelineCache cache, uint32_t n, const VkComputePipelineCreateInfo *infos,
                               const VkAllocationCallbacks *alloc, VkPipeline *out)
{
   VkComputePipelineCreateInfo *mine = calloc(n, sizeof(*mine));
   for (uint32_t i = 0; i < n; i++) {
      mine[i] = infos[i];
      if (have_stats) mine[i].flags |= VK_PIPELINE_CREATE_CAPTURE_STATISTICS_BIT_KHR;
      if (have_stats && getenv("VKSTATS_IR")) mine[i].flags |= VK_PIPELINE_CREATE_CAPTURE_INTERNAL_REPRESENTATIONS_BIT_KHR;
   }
   VkResult r = NEXT_D(vkCreateComputePipelines)(dev, cache, n, mine, alloc, out);
   for (uint32_t i = 0; r == VK_SUCCESS && i < n; i++) record(out[i], &infos[i]);
   free(mine);
   return r;
}

/* Drivers without a kernel below them (RADV's null winsys) refuse timeline semaphores, which wgpu wants for its queue.
 * Nothing is ever executed, so a binary semaphore that always reports "done" will do. */
static bool fake_timeline;

static VkResult create_semaphore(VkDevice dev, const VkSemaphoreCreateInfo *info, const VkAllocationCallbacks *alloc,
                                 VkSemaphore *out)
{
   VkResult r = NEXT_D(vkCreateSemaphore)(dev, info, alloc, out);
   if (r == VK_SUCCESS) return r;
   VkSemaphoreCreateInfo plain = {.sType = info->sType};
   fake_timeline = true;
   r = NEXT_D(vkCreateSemaphore)(dev, &plain, alloc, out);
   if (r == VK_SUCCESS) return r;
   *out = (VkSemaphore)calloc(1, 64); /* never dereferenced: see destroy_semaphore */
   return VK_SUCCESS;
}

static void destroy_semaphore(VkDevice dev, VkSemaphore s, const VkAllocationCallbacks *alloc)
{
   if (!fake_timeline) NEXT_D(vkDestroySemaphore)(dev, s, alloc);
}

static VkResult counter_value(VkDevice dev, VkSemaphore s, uint64_t *value)
{
   if (!fake_timeline) return NEXT_D(vkGetSemaphoreCounterValue)(dev, s, value);
   *value = 1u << 30;
   return VK_SUCCESS;
}

static VkResult wait_semaphores(VkDevice dev, const VkSemaphoreWaitInfo *info, uint64_t timeout)
{
   return fake_timeline ? VK_SUCCESS : NEXT_D(vkWaitSemaphores)(dev, info, timeout);
}

static PFN_vkVoidFunction mine_or_null(const char *name)
{
   static const struct { const char *name; PFN_vkVoidFunction f; } table[] = {
      {"vkCreateInstance", (PFN_vkVoidFunction)create_instance},
      {"vkCreateDevice", (PFN_vkVoidFunction)create_device},
      {"vkCreateShaderModule", (PFN_vkVoidFunction)create_module},
      {"vkCreateComputePipelines", (PFN_vkVoidFunction)create_compute},
      {"vkCreateSemaphore", (PFN_vkVoidFunction)create_semaphore},
      {"vkDestroySemaphore", (PFN_vkVoidFunction)destroy_semaphore},
      {"vkGetSemaphoreCounterValue", (PFN_vkVoidFunction)counter_value},
      {"vkGetSemaphoreCounterValueKHR", (PFN_vkVoidFunction)counter_value},
      {"vkWaitSemaphores", (PFN_vkVoidFunction)wait_semaphores},
      {"vkWaitSemaphoresKHR", (PFN_vkVoidFunction)wait_semaphores},
   };
   for (unsigned i = 0; i < sizeof(table) / sizeof(*table); i++)
      if (!strcmp(name, table[i].name)) return table[i].f;
   return NULL;
}

EXPORT PFN_vkVoidFunction VKAPI_CALL vkstats_gdpa(VkDevice dev, const char *name)
{
   if (!strcmp(name, "vkGetDeviceProcAddr")) return (PFN_vkVoidFunction)vkstats_gdpa;
   PFN_vkVoidFunction f = mine_or_null(name);
   return f ? f : next_gdpa(dev, name);
}

EXPORT PFN_vkVoidFunction VKAPI_CALL vkstats_gipa(VkInstance inst, const char *name)
{
   if (!strcmp(name, "vkGetInstanceProcAddr")) return (PFN_vkVoidFunction)vkstats_gipa;
   if (!strcmp(name, "vkGetDeviceProcAddr")) return (PFN_vkVoidFunction)vkstats_gdpa;
   PFN_vkVoidFunction f = mine_or_null(name);
   return f ? f : next_gipa(inst, name);
}

EXPORT VkResult VKAPI_CALL vkNegotiateLoaderLayerInterfaceVersion(VkNegotiateLayerInterface *v)
{
   v->loaderLayerInterfaceVersion = 2;
   v->pfnGetInstanceProcAddr = vkstats_gipa;
   v->pfnGetDeviceProcAddr = vkstats_gdpa;
   v->pfnGetPhysicalDeviceProcAddr = NULL;
   return VK_SUCCESS;
}
